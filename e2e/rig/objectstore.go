package rig

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

const (
	gateway        = "github.com/versity/versitygw/cmd/versitygw"
	gatewayVersion = "v1.8.0"
)

// The name and the secret of the owner of an ObjectStore, and its bucket.
const (
	StoreOwner  = "publisher"
	StoreSecret = "not-a-secret"
	StoreBucket = "packages"
)

// anyoneReads is the policy of a bucket whose objects everybody can read.
const anyoneReads = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":["s3:GetObject"],"Resource":["arn:aws:s3:::` + StoreBucket + `/*"]}]}`

// Gateway returns the program of an object store, the Versity S3 Gateway. It is built once for
// each user.
func Gateway() (program string, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "lull", "versitygw-"+gatewayVersion)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	d, err := os.Open(dir)
	if err != nil {
		return "", err
	}
	defer d.Close()
	for err = syscall.EINTR; err == syscall.EINTR; { // one program builds it, the others wait
		err = syscall.Flock(int(d.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		return "", fmt.Errorf("cannot take turns at %s: %w", dir, err)
	}
	program = filepath.Join(dir, "versitygw")
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	cmd := exec.Command("go", "install", gateway+"@"+gatewayVersion)
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot build the Versity S3 Gateway: %w: %s", err, out)
	}
	return program, nil
}

// ObjectStore starts the program of Gateway with an empty bucket that everybody can read, until
// the test ends. It keeps objects in a directory.
func ObjectStore(tb TB, gateway, dir string) (address string) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("cannot find an address for the object store: %v", err)
	}
	address = l.Addr().String()
	l.Close()
	var log bytes.Buffer
	cmd := exec.Command(gateway, "--port", address, "--access", StoreOwner, "--secret", StoreSecret, "--quiet", "posix", dir)
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		tb.Fatalf("cannot start the object store: %v", err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if tb.Failed() {
			tb.Logf("the object store: %s", log.String())
		}
	})
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) { // no event reports that it listens
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
			break
		}
		if time.Now().After(end) {
			tb.Fatalf("the object store does not listen: %v", err)
		}
	}
	client, err := minio.New(address, &minio.Options{Creds: credentials.NewStaticV4(StoreOwner, StoreSecret, ""), Region: "us-east-1"})
	if err == nil {
		err = client.MakeBucket(tb.Context(), StoreBucket, minio.MakeBucketOptions{Region: "us-east-1"})
	}
	if err == nil {
		err = client.SetBucketPolicy(tb.Context(), StoreBucket, anyoneReads)
	}
	if err != nil {
		tb.Fatalf("cannot make the bucket %s: %v", StoreBucket, err)
	}
	return address
}
