package repo

import (
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
	"time"
)

// backoff is how passing failures are met: up to tries attempts, with pauses
// that begin at first and double up to most.
type backoff struct {
	tries       int
	first, most time.Duration
	stall       time.Duration // a transfer that stands still for so long has failed
}

var defaultBackoff = backoff{tries: 5, first: 500 * time.Millisecond, most: 8 * time.Second, stall: 45 * time.Second}

// pause sleeps before the n-th repetition, counted from 0, or as long as the
// server has asked for within reason.
func (b backoff) pause(ctx context.Context, n int, asked time.Duration) error {
	d := min(b.first<<min(n, 16), b.most)
	d += time.Duration(rand.Int64N(int64(d)/4 + 1)) // thousands of machines should not come in step
	t := time.NewTimer(max(d, min(asked, b.most*4)))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// progress is how many bytes a resumed transfer must have brought to start
// counting failures anew.
const progress = 64 << 10

// web is a repository behind HTTP.
type web struct {
	base   *url.URL
	client *http.Client
	retry  backoff
}

func newWeb(base *url.URL, retry backoff) *web {
	t := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:      true,
		TLSHandshakeTimeout:    15 * time.Second,
		ResponseHeaderTimeout:  30 * time.Second,
		ExpectContinueTimeout:  time.Second,
		IdleConnTimeout:        20 * time.Second, // idle means no wake-ups
		MaxIdleConnsPerHost:    8,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true, // blobs are compressed, metadata is small
	}
	return &web{base, &http.Client{Transport: t, CheckRedirect: checkRedirect}, retry}
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

// status is an answer that is no success.
type status struct {
	code  int
	after time.Duration // what Retry-After asks for
}

func (s status) Error() string {
	return strings.TrimSpace(fmt.Sprintf("the server answered %d %s", s.code, http.StatusText(s.code)))
}

// passing says whether another attempt may succeed.
func passing(ctx context.Context, err error) bool {
	var s status
	var cert *tls.CertificateVerificationError
	switch {
	case ctx.Err() != nil, errors.Is(err, errMissing), errors.As(err, new(tooLarge)), errors.Is(err, errors.ErrUnsupported), errors.As(err, &cert):
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

// repeat runs do until it succeeds, fails for good, or has failed too often.
func (w *web) repeat(ctx context.Context, do func() error) error {
	for n := 0; ; n++ {
		err := do()
		if err == nil || n+1 >= w.retry.tries || !passing(ctx, err) {
			return err
		}
		var s status
		errors.As(err, &s)
		if w.retry.pause(ctx, n, s.after) != nil {
			return err
		}
	}
}

// request asks once for a path. The caller closes the body, which fails when
// nothing comes for a while.
func (w *web) request(ctx context.Context, path string, header map[string]string) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.base.JoinPath(path).String(), nil)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	req.Header.Set("User-Agent", "lull")
	req.Header.Set("Accept-Encoding", "identity")
	for k, v := range header {
		req.Header.Set(k, v)
	}
	res, err := w.client.Do(req)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	switch res.StatusCode {
	case http.StatusOK, http.StatusPartialContent:
	case http.StatusNotFound, http.StatusGone:
		err = errMissing
	default:
		after, _ := strconv.Atoi(res.Header.Get("Retry-After"))
		err = status{res.StatusCode, time.Duration(min(max(after, 0), 3600)) * time.Second}
	}
	if err != nil {
		res.Body.Close()
		cancel(nil)
		return nil, err
	}
	b := &watchedBody{ReadCloser: res.Body, ctx: ctx, cancel: cancel, limit: w.retry.stall}
	b.timer = time.AfterFunc(b.limit, func() { cancel(errStalled) })
	b.timer.Stop()
	res.Body = b
	return res, nil
}

var errStalled = errors.New("the transfer stands still")

// watchedBody cancels its request when a read takes too long. The time between
// reads is the reader's own and does not count.
type watchedBody struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	limit  time.Duration
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.timer.Reset(b.limit)
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	if err != nil && err != io.EOF && context.Cause(b.ctx) == errStalled {
		err = errStalled
	}
	return n, err
}

func (b *watchedBody) Close() error {
	b.timer.Stop()
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}

func (w *web) get(ctx context.Context, path string, limit int64) (data []byte, err error) {
	err = w.repeat(ctx, func() error {
		res, err := w.request(ctx, path, nil)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.ContentLength > limit {
			return tooLarge{limit}
		}
		data, err = readAll(res.Body, limit)
		return err
	})
	return data, err
}

func (w *web) tail(ctx context.Context, path string, n int64) (data []byte, size int64, err error) {
	err = w.repeat(ctx, func() error {
		res, err := w.request(ctx, path, map[string]string{"Range": "bytes=-" + strconv.FormatInt(n, 10)})
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

// resuming reads a file over as many requests as it takes.
type resuming struct {
	w        *web
	ctx      context.Context
	path     string
	at       int64 // the next byte of the file
	body     io.ReadCloser
	etag     string
	failures int   // in a row
	since    int64 // value of at when the last of them happened
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
	res, err := r.w.request(r.ctx, r.path, header)
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
		skip = r.at // a server that knows no ranges sends everything again
	}
	// A changed file would not fit to the part that is here already. Weak tags
	// promise too little to compare (RFC 9110, section 13.1.5).
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
	for {
		n, err := r.body.Read(p)
		r.at += int64(n)
		if err == nil || err == io.EOF {
			return n, err
		}
		if n > 0 {
			return n, nil // the failure comes again
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
