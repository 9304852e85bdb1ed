package repo

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/lull/lull/policy"
)

// backoff is the retry policy for transient failures: up to tries attempts, with pauses that
// begin at first and double up to most.
type backoff struct {
	tries       int
	first, most time.Duration
	metadata    patience // with metadata and pointers, which are small
	blobs       patience
}

// patience bounds how slow a transfer may be. Only the time of waiting for the server counts.
type patience struct {
	stall time.Duration // without any byte
	grace time.Duration // after the request, before rate counts
	rate  int64         // bytes per second, on average
}

var defaultBackoff = backoff{tries: 5, first: 500 * time.Millisecond, most: 8 * time.Second,
	metadata: patience{stall: 10 * time.Second, grace: 10 * time.Second, rate: 1 << 10},
	blobs:    patience{stall: 45 * time.Second, grace: time.Minute, rate: 256}}

// longest returns the longest pause within one call.
func (b backoff) longest() time.Duration { return b.most * 4 }

// pause sleeps before the n-th repetition, counted from 0, or as long as the server has
// requested.
func (b backoff) pause(ctx context.Context, n int, asked time.Duration) error {
	d := min(b.first<<min(n, 16), b.most)
	d += time.Duration(rand.Int64N(int64(d)/4 + 1)) // avoids synchronous retries of thousands of machines
	t := time.NewTimer(max(d, min(asked, b.longest())))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// progress is the minimum size, in bytes, of a resumed transfer that resets the count of
// failures.
const progress = 64 << 10

// web is a repository behind HTTP.
type web struct {
	base          *url.URL
	authorization string // value of the header, or ""
	client        *http.Client
	retry         backoff
	limit         *Limit // of content; nil means none
	proxies       proxies
}

func newWeb(base *url.URL, cfg Config, retry backoff) *web {
	dial := cfg.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	}
	proxies := proxies{cfg.Proxy}
	t := &http.Transport{
		Proxy:                  proxies.forRequest,
		DialContext:            dial,
		ForceAttemptHTTP2:      true,
		TLSHandshakeTimeout:    15 * time.Second,
		TLSClientConfig:        &tls.Config{Time: atLeastBuilt},
		ResponseHeaderTimeout:  30 * time.Second,
		ExpectContinueTimeout:  time.Second,
		IdleConnTimeout:        20 * time.Second, // idle means no wake-ups
		MaxIdleConnsPerHost:    8,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true, // blobs are compressed; getIfChanged requests it itself
	}
	return &web{base, cfg.Authorization, &http.Client{Transport: t, CheckRedirect: checkRedirect}, retry, cfg.Limit, proxies}
}

// atLeastBuilt returns the time for the check of certificates.
func atLeastBuilt() time.Time {
	if now := time.Now(); now.After(policy.Earliest) {
		return now
	}
	return policy.Earliest
}

// checkRedirect follows a few redirects and never from https to http.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= 5 {
		return errors.New("it is redirected too often")
	}
	if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return errors.New("it is redirected to an unprotected address")
	}
	return nil
}

func (*web) dir() string { return "" }

// status is a response without success.
type status struct {
	code  int
	after time.Duration // the value of Retry-After
}

func (s status) Error() string {
	return strings.TrimSpace(fmt.Sprintf("the server answered %d %s", s.code, http.StatusText(s.code)))
}

// maxRetryAfter bounds the delay that a server can request.
const maxRetryAfter = 24 * time.Hour

// retryAfter reads the header of that name in both forms (RFC 9110, section 10.2.3).
func retryAfter(h http.Header, now time.Time) time.Duration {
	s := h.Get("Retry-After")
	var d time.Duration
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		d = time.Duration(min(max(n, 0), int64(maxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(s); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), maxRetryAfter)
}

// RetryAfter returns the delay that the server has requested with the failure err: at most a
// day, or 0 without such a request.
func RetryAfter(err error) time.Duration {
	var s status
	if errors.As(err, &s) {
		return s.after
	}
	return 0
}

// errWebPage is the response of a captive portal, or of a server that shows a page for each
// address.
var errWebPage = errors.New("a web page came back instead")

// isWebPage reports whether a body begins as HTML or XML does. No file of a
// repository does: metadata and pointers are JSON objects, blobs begin with the
// magic number of zstd (RFC 8878, section 3.1).
func isWebPage(head []byte) bool {
	head = bytes.TrimPrefix(head, []byte("\xef\xbb\xbf"))
	return bytes.HasPrefix(bytes.TrimLeft(head, " \t\r\n\f"), []byte("<"))
}

// passing reports whether another attempt may succeed.
func passing(ctx context.Context, err error) bool {
	var s status
	var cert *tls.CertificateVerificationError
	switch {
	case ctx.Err() != nil, errors.Is(err, errMissing), errors.As(err, new(tooLarge)), errors.Is(err, errors.ErrUnsupported), errors.As(err, &cert), errors.Is(err, errWebPage):
		return false
	case errors.As(err, &s):
		switch s.code {
		case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests, http.StatusInternalServerError,
			http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return true
		}
		return false
	}
	return true
}

// repeat runs do until it succeeds, fails permanently, or has failed too often.
func (w *web) repeat(ctx context.Context, do func() error) error {
	for n := 0; ; n++ {
		err := do()
		if err == nil || n+1 >= w.retry.tries || !passing(ctx, err) {
			return err
		}
		asked := RetryAfter(err)
		if asked > w.retry.longest() || w.retry.pause(ctx, n, asked) != nil {
			return err
		}
	}
}

// request sends one request for a path. The caller closes the body, which fails if the server
// is slower than p allows.
func (w *web) request(ctx context.Context, path string, header map[string]string, p patience) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.base.JoinPath(path).String(), nil)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	req.Header.Set("User-Agent", "lull")
	req.Header.Set("Accept-Encoding", "identity")
	if w.authorization != "" {
		req.Header.Set("Authorization", w.authorization)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	b := newWatchedBody(ctx, cancel, p)
	var res *http.Response
	err = b.waits(func() (err error) { res, err = w.client.Do(req); return err })
	if err != nil {
		cancel(nil)
		return nil, w.proxies.blame(req.URL, err)
	}
	b.body = res.Body
	if header["Accept-Encoding"] == "gzip" && res.Header.Get("Content-Encoding") == "gzip" {
		b.body, res.ContentLength = &unzipped{body: res.Body}, -1
	}
	switch code := res.StatusCode; {
	case code == http.StatusOK, code == http.StatusPartialContent:
	case code == http.StatusNotModified && header["If-None-Match"] != "":
	case code == http.StatusNotFound, code == http.StatusGone:
		err = errMissing
	case code == http.StatusNetworkAuthenticationRequired:
		err = errWebPage
	default:
		err = w.proxies.blame(req.URL, status{res.StatusCode, retryAfter(res.Header, time.Now())})
	}
	if err == nil && res.StatusCode == http.StatusOK && b.startsAsWebPage() {
		err = errWebPage
	}
	if err != nil {
		b.drain()
		b.Close()
		return nil, err
	}
	res.Body = b
	return res, nil
}

var (
	errStalled = errors.New("the transfer stands still")
	errSlow    = errors.New("the transfer is too slow")
)

// watchedBody cancels its request if the server is too slow. The time between reads belongs
// to the reader and does not count. One goroutine at a time uses it.
type watchedBody struct {
	body   io.ReadCloser
	head   []byte // already read
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	cause  atomic.Pointer[error] // the cause of the timer's cancellation
	p      patience
	spent  time.Duration
	n      int64
}

func newWatchedBody(ctx context.Context, cancel context.CancelCauseFunc, p patience) *watchedBody {
	b := &watchedBody{ctx: ctx, cancel: cancel, p: p}
	b.timer = time.AfterFunc(time.Hour, func() { cancel(*b.cause.Load()) })
	b.timer.Stop()
	return b
}

// waits runs do, which waits for the server, with the timer running.
func (b *watchedBody) waits(do func() error) error {
	left, cause := b.p.stall, &errStalled
	if most := b.p.grace + time.Duration(float64(b.n)/float64(b.p.rate)*float64(time.Second)) - b.spent; most < left {
		left, cause = max(most, 0), &errSlow
	}
	b.cause.Store(cause)
	begun := time.Now()
	b.timer.Reset(left)
	err := do()
	b.timer.Stop()
	b.spent += time.Since(begun)
	if err != nil && err != io.EOF {
		if c := context.Cause(b.ctx); c == errStalled || c == errSlow {
			return c
		}
	}
	return err
}

func (b *watchedBody) Read(p []byte) (n int, err error) {
	if len(b.head) > 0 {
		n = copy(p, b.head)
		b.head = b.head[n:]
		return n, nil
	}
	err = b.waits(func() error { n, err = b.body.Read(p); return err })
	b.n += int64(n)
	return n, err
}

// unzipped is the content of a body that was compressed on the wire (RFC 9110, section 8.4).
// The reader bounds its size.
type unzipped struct {
	body io.ReadCloser
	zip  *gzip.Reader // nil before the first Read
	err  error        // of the header; it is permanent
}

func (u *unzipped) Read(p []byte) (n int, err error) {
	if u.zip == nil && u.err == nil {
		if u.zip, u.err = gzip.NewReader(u.body); u.err == io.EOF {
			u.err = io.ErrUnexpectedEOF
		}
	}
	if u.err != nil {
		return 0, u.err
	}
	return u.zip.Read(p)
}

func (u *unzipped) Close() error { return u.body.Close() }

// startsAsWebPage reports whether the body begins like a web page. The checked bytes remain
// to be read.
func (b *watchedBody) startsAsWebPage() bool {
	head := make([]byte, 64)
	n, _ := io.ReadFull(b, head) // the failure recurs
	b.head = head[:n]
	return isWebPage(b.head)
}

// drain reads the rest of a short body, so that the connection can be reused.
func (b *watchedBody) drain() { _, _ = io.CopyN(io.Discard, b, 16<<10) }

func (b *watchedBody) Close() error {
	b.timer.Stop()
	err := b.body.Close()
	b.cancel(nil)
	return err
}

func (w *web) get(ctx context.Context, path string, limit int64) (data []byte, err error) {
	data, _, err = w.getIfChanged(ctx, path, limit, "")
	return data, err
}

// getIfChanged implements source with If-None-Match (RFC 9110, section 13.1.2). A slow
// transfer of metadata is not retried, because others are waiting.
func (w *web) getIfChanged(ctx context.Context, path string, limit int64, tag string) (data []byte, newTag string, err error) {
	var slow error
	err = w.repeat(ctx, func() error {
		header := map[string]string{"Accept-Encoding": "gzip"}
		if tag != "" {
			header["If-None-Match"] = tag
		}
		res, err := w.request(ctx, path, header, w.retry.metadata)
		if err == nil {
			defer res.Body.Close()
			switch {
			case res.StatusCode == http.StatusNotModified:
				err = errUnchanged
			case res.StatusCode != http.StatusOK:
				err = status{code: res.StatusCode}
			case res.ContentLength > limit:
				err = tooLarge{limit}
			default:
				newTag = tagOf(res.Header)
				data, err = readAll(res.Body, limit)
			}
		}
		if errors.Is(err, errSlow) || errors.Is(err, errStalled) || err == errUnchanged {
			slow = err
			return nil
		}
		return err
	})
	return data, newTag, cmp.Or(slow, err)
}

// tagOf returns the ETag of a response, or "" if the file was changed in the second in which it
// was sent, or later: nginx makes the tag from that time in seconds and the size, so that
// another change in the same second may have the same tag (RFC 9110, section 8.8.2.2).
func tagOf(h http.Header) string {
	changed, err := http.ParseTime(h.Get("Last-Modified"))
	if err != nil {
		return h.Get("ETag")
	}
	if sent, err := http.ParseTime(h.Get("Date")); err != nil || sent.Sub(changed) < time.Second {
		return ""
	}
	return h.Get("ETag")
}

func (w *web) tail(ctx context.Context, path string, n int64) (data []byte, size int64, err error) {
	err = w.repeat(ctx, func() error {
		res, err := w.request(ctx, path, map[string]string{"Range": "bytes=-" + strconv.FormatInt(n, 10)}, w.retry.blobs)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusPartialContent {
			return errors.ErrUnsupported
		}
		var start int64
		if start, size, err = contentRange(res.Header); err != nil {
			return err
		}
		data, err = readAll(res.Body, n)
		if err == nil && start+int64(len(data)) != size {
			err = io.ErrUnexpectedEOF
		}
		return err
	})
	return data, size, err
}

// contentRange reads "bytes START-END/SIZE" (RFC 9110, section 14.4).
func contentRange(h http.Header) (start, size int64, err error) {
	var end int64
	s := h.Get("Content-Range")
	if n, _ := fmt.Sscanf(s, "bytes %d-%d/%d", &start, &end, &size); n != 3 || start < 0 || end < start || size <= end {
		return 0, 0, fmt.Errorf("the server sent the range %.80q: %w", s, errors.ErrUnsupported)
	}
	return start, size, nil
}

func (w *web) open(ctx context.Context, path string, from int64) (io.ReadCloser, error) {
	r := &resuming{w: w, ctx: ctx, path: path, at: from}
	if err := w.repeat(ctx, r.connect); err != nil {
		return nil, err
	}
	return r, nil
}

// resuming reads a file with as many requests as necessary.
type resuming struct {
	w        *web
	ctx      context.Context
	path     string
	at       int64 // the next byte of the file
	body     io.ReadCloser
	etag     string
	failures int   // in a row
	since    int64 // value of at at the last failure
}

// connect makes body deliver the file from at onwards.
func (r *resuming) connect() error {
	header := map[string]string{}
	if r.at > 0 {
		header["Range"] = fmt.Sprintf("bytes=%d-", r.at)
		if r.etag != "" {
			header["If-Range"] = r.etag
		}
	}
	res, err := r.w.request(r.ctx, r.path, header, r.w.retry.blobs)
	if err != nil {
		var s status
		if r.at > 0 && errors.As(err, &s) && s.code == http.StatusRequestedRangeNotSatisfiable {
			r.body = io.NopCloser(strings.NewReader("")) // at is the file's end
			return nil
		}
		return err
	}
	var skip int64
	switch {
	case r.at > 0 && res.StatusCode == http.StatusPartialContent:
		start, _, err := contentRange(res.Header)
		if err != nil || start > r.at {
			res.Body.Close()
			return errors.Join(err, errors.New("the server sent another range than it was asked for"))
		}
		skip = r.at - start
	default:
		skip = r.at // a server without support for ranges sends everything
	}
	// A changed file would not match the received part. Weak tags guarantee too little
	// for a comparison (RFC 9110, section 13.1.5).
	if tag := res.Header.Get("ETag"); strings.HasPrefix(tag, `"`) {
		if r.etag != "" && r.etag != tag {
			res.Body.Close()
			return fmt.Errorf("the file has changed: %w", errors.ErrUnsupported)
		}
		r.etag = tag
	}
	if _, err := io.CopyN(io.Discard, res.Body, skip); err != nil {
		res.Body.Close()
		return err
	}
	r.body = res.Body
	return nil
}

func (r *resuming) Read(p []byte) (int, error) {
	limit := r.w.limit.of(r.ctx)
	for {
		if err := r.ctx.Err(); err != nil {
			return 0, err
		}
		n, err := r.body.Read(limit.part(p))
		r.at += int64(n)
		if lerr := limit.spend(r.ctx, n); lerr != nil {
			return n, lerr
		}
		if err == nil || err == io.EOF {
			return n, err
		}
		if n > 0 {
			return n, nil // the failure recurs
		}
		if r.at-r.since >= progress {
			r.failures = 0
		}
		r.since = r.at
		for {
			if r.failures++; r.failures >= r.w.retry.tries || !passing(r.ctx, err) {
				return 0, err
			}
			if perr := r.w.retry.pause(r.ctx, r.failures-1, 0); perr != nil {
				return 0, perr
			}
			r.body.Close()
			if err = r.connect(); err == nil {
				break
			}
		}
	}
}

func (r *resuming) Close() error { return r.body.Close() }
