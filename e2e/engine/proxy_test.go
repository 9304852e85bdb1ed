package engine_test

import (
	"crypto/tls"
	"encoding/pem"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

// server is a proxy of Debian's.
type server struct {
	address string // HOST:PORT
	log     string // path
	stop    func()
}

// start starts a proxy, and returns when it accepts connections.
func (s *scene) start(name string, command func(port string) *exec.Cmd) server {
	s.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.Fatalf("%v", err)
	}
	address := l.Addr().String()
	l.Close()
	_, port, _ := strings.Cut(address, ":")
	cmd := command(port)
	log, err := os.Create(s.Path(name + ".log"))
	if err != nil {
		s.Fatalf("%v", err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		s.Fatalf("%v", err)
	}
	ended := false
	p := server{address, log.Name(), func() {
		if !ended {
			ended = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}}
	s.Cleanup(p.stop)
	for end := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) { // no event reports that it listens
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
			return p
		}
		if time.Now().After(end) {
			s.Fatalf("%s does not listen: %v", name, err)
		}
	}
}

// overTLS starts a proxy with TLS in front of another one, and returns its address and the file
// with its certificate.
func (s *scene) overTLS(proxy server) (address, trust string) {
	s.Helper()
	own := httptest.NewUnstartedServer(nil) // of which the certificate is used alone
	own.StartTLS()
	trust = s.Path("proxy.pem")
	err := os.WriteFile(trust, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: own.Certificate().Raw}), 0o644)
	config := &tls.Config{Certificates: own.TLS.Certificates}
	own.Close()
	if err != nil {
		s.Fatalf("%v", err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		s.Fatalf("%v", err)
	}
	var relays sync.WaitGroup
	s.Cleanup(func() { l.Close(); proxy.stop(); relays.Wait() })
	relays.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return // closed
			}
			relays.Go(func() {
				defer in.Close()
				out, err := net.Dial("tcp", proxy.address)
				if err != nil {
					return
				}
				defer out.Close()
				done := make(chan struct{})
				go func() { defer close(done); _, _ = io.Copy(out, in); out.(*net.TCPConn).CloseWrite() }()
				_, _ = io.Copy(in, out)
				in.Close()
				<-done
			})
		}
	})
	return l.Addr().String(), trust
}

// TestProxies: repositories are read by the proxies of the environment, by that of the policy in
// their place, or without one; over TLS, too. The error about a proxy that is down names it, and
// where it is set.
func TestProxies(t *testing.T) {
	tinyproxy, microsocks := require.Program(t, "tinyproxy"), require.Program(t, "microsocks")
	require.Program(t, "nginx")
	s := set(t, "")
	const name = "org.lull.proxied"
	publish := func(version string) { s.publish(app(name, version, ""), map[string]string{"app": forever}) }
	publish("1")
	if err := os.Mkdir(s.Path("nginx"), 0o755); err != nil {
		t.Fatal(err)
	}
	// No proxy is used for loopback addresses; this one is the same machine, and is not one of them.
	_, port, _ := strings.Cut(rig.Nginx(t, s.Path("nginx"), "access_log off;\nserver { listen ADDRESS; root "+s.Repo+"; }\n"), ":")
	at := "http://0.0.0.0:" + port

	http := s.start("tinyproxy", func(port string) *exec.Cmd {
		conf := s.Path("tinyproxy.conf")
		if err := os.WriteFile(conf, []byte("Port "+port+"\nListen 127.0.0.1\nTimeout 60\nLogLevel Connect\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		return exec.Command(tinyproxy, "-d", "-c", conf)
	})
	socks := s.start("microsocks", func(port string) *exec.Cmd { return exec.Command(microsocks, "-i", "127.0.0.1", "-p", port) })
	used := func(p server) int {
		log, err := os.ReadFile(p.log)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(log), "0.0.0.0")
	}
	failed := func(want string) {
		t.Helper()
		if r := s.Lull("refresh", name); r.Code == 0 || !strings.Contains(r.Stderr, want) {
			t.Errorf("want %q, got %v", want, r)
		}
	}
	policy := func(text string) {
		t.Helper()
		s.Configure("policy.d/20-proxy.yaml", text)
		s.MustLull("policy", "reload")
	}

	s.StartAgent("HTTP_PROXY=http://" + http.address)
	s.MustLull("repo", "add", "local", at, "--trust", s.Repo+"/root.json")
	s.MustLull("install", name)
	if used(http) == 0 || used(socks) != 0 {
		t.Errorf("by the environment: %d connections by tinyproxy, %d by microsocks, want some and none", used(http), used(socks))
	}

	before := used(http)
	policy("network:\n  proxy: socks5://" + socks.address + "\n")
	publish("2")
	s.MustLull("refresh", name)
	if used(http) != before || used(socks) == 0 {
		t.Errorf("by the policy: %d connections by tinyproxy, %d by microsocks, want none and some", used(http)-before, used(socks))
	}
	socks.stop()
	failed("by the proxy socks5://" + socks.address + ", which is set by network.proxy in " + s.Config + "/policy.d/20-proxy.yaml" + ":2: ")

	policy("network: {proxy: 'socks5://" + socks.address + "', no-proxy: [0.0.0.0]}\n")
	publish("3")
	s.MustLull("refresh", name)
	if used(http) != before {
		t.Error("an exception of the policy is reached by the proxy of the environment")
	}

	policy("network: {proxy: 'http://" + http.address + "'}\n")
	publish("4")
	s.MustLull("refresh", name)
	if used(http) == before {
		t.Error("tinyproxy is not used by the policy")
	}

	// The same proxy behind TLS, by the policy and by the environment.
	secure, trust := s.overTLS(http)
	overTLS := func(version, policyText string, env ...string) {
		t.Helper()
		policy(policyText)
		s.Agent().Crash()
		s.StartAgent(append(env, "SSL_CERT_FILE="+trust)...)
		before := used(http)
		publish(version)
		s.MustLull("refresh", name)
		if used(http) == before {
			t.Errorf("the proxy with TLS is not used, with the policy %q", policyText)
		}
	}
	overTLS("5", "network: {proxy: 'https://"+secure+"'}")
	overTLS("6", "", "HTTP_PROXY=https://"+secure)
	http.stop()
	failed("by the proxy https://" + secure + ", which is set by the environment variable HTTP_PROXY of the agent: ")
}
