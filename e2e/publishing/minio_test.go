package publishing

import (
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// makeBucket makes the bucket, readable for everybody.
func makeBucket(t *testing.T, host string) {
	t.Helper()
	c, err := minio.New(host, &minio.Options{Creds: credentials.NewEnvAWS(), Region: "us-east-1"})
	must(t, err)
	must(t, c.MakeBucket(t.Context(), "packages", minio.MakeBucketOptions{Region: "us-east-1"}))
	must(t, c.SetBucketPolicy(t.Context(), "packages", policy))
}
