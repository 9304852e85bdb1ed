package repo

import (
	"net/http"
	"net/url"
	"os"
	"strings"

	"golang.org/x/net/http/httpproxy"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/policy"
)

// Network is how servers are reached; the zero value means without a limit, and by the proxies
// of the environment.
type Network struct {
	Limit *Limit
	Proxy func() policy.Proxy // nil means no policy
}

// proxies finds the proxies of requests: that of the policy, or those of the environment. They
// are determined for each request, so that a change of the policy takes effect at once.
type proxies struct {
	policy func() policy.Proxy // nil means no policy
}

// of returns the proxy for a URL and where it is configured, or nil.
func (p proxies) of(u *url.URL) (proxy *url.URL, origin string, err error) {
	c := httpproxy.FromEnvironment()
	if p.policy != nil {
		if set := p.policy(); set.URL != "" {
			c = &httpproxy.Config{HTTPProxy: set.URL, HTTPSProxy: set.URL, NoProxy: strings.Join(set.Except, ",")}
			origin = errkind.Text("network.proxy in %s", set.Origin)
		}
	}
	proxy, err = c.ProxyFunc()(u)
	if proxy != nil && origin == "" {
		origin = errkind.Text("the environment variable %s of the agent", variable(u.Scheme))
	}
	return proxy, origin, err
}

// variable returns the name of the environment variable that sets the proxy for a scheme.
func variable(scheme string) string {
	name := scheme + "_proxy"
	if os.Getenv(name) == "" {
		name = strings.ToUpper(name)
	}
	return name
}

// forRequest implements http.Transport.Proxy.
func (p proxies) forRequest(req *http.Request) (*url.URL, error) {
	proxy, _, err := p.of(req.URL)
	return proxy, err
}

// blame adds the proxy by which a request was sent to its error.
func (p proxies) blame(u *url.URL, err error) error {
	proxy, origin, perr := p.of(u)
	if perr != nil || proxy == nil {
		return err
	}
	return errkind.Errorf("by the proxy %s, which is set by %s: %w", proxy.Redacted(), origin, err)
}
