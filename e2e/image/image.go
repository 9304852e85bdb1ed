// Package image makes container images for tests: OCI layouts, and what `docker save` writes.
// A test may change the files before it packs them.
package image

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"io"
	"maps"
	"path"
	"runtime"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Image describes an image.
type Image struct {
	Config      v1.Config
	Arch        string            // default: this machine's
	Reference   string            // of the image in its archive
	Annotations map[string]string // of its manifest
	Layers      [][]byte          // tar archives
	Plain       bool              // the layers are not compressed
	LayerType   types.MediaType   // default: that of the layers
}

// Layer makes the tar archive of a layer. A regular file without a size has its name as its
// content.
func Layer(headers ...tar.Header) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		content := h.Name
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if text, ok := h.PAXRecords[contentRecord]; ok {
			content, h.PAXRecords = text, nil
		}
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(content))
		}
		must(w.WriteHeader(&h))
		if h.Typeflag == tar.TypeReg {
			_, err := io.WriteString(w, content)
			must(err)
		}
	}
	must(w.Close())
	return b.Bytes()
}

const contentRecord = "LULL.content"

// File is the header of a file with the name as its content.
func File(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name} }

// Program is the header of an executable file.
func Program(name, content string) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, PAXRecords: map[string]string{contentRecord: content}}
}

// Symlink is the header of a symlink.
func Symlink(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}
}

// Link is the header of a hard link.
func Link(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}
}

// Dir is the header of a directory.
func Dir(name string) tar.Header {
	return tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755}
}

// Layout returns the files of an OCI layout with the images, by path.
func Layout(images ...Image) map[string][]byte {
	files := map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	for _, i := range images {
		m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Annotations: i.Annotations,
			Config: put(files, types.OCIConfigJSON, i.config())}
		for _, l := range i.Layers {
			media := types.OCIUncompressedLayer
			if !i.Plain {
				media, l = types.OCILayer, compressed(l)
			}
			m.Layers = append(m.Layers, put(files, cmp.Or(i.LayerType, media), l))
		}
		d := put(files, types.OCIManifestSchema1, marshal(m))
		if i.Reference != "" {
			d.Annotations = map[string]string{"org.opencontainers.image.ref.name": i.Reference}
		}
		index.Manifests = append(index.Manifests, d)
	}
	files["index.json"] = marshal(index)
	return files
}

// Nest puts the index of a layout into further indices, one in the other.
func Nest(files map[string][]byte, depth int) map[string][]byte {
	for range depth {
		d := put(files, types.OCIImageIndex, files["index.json"])
		files["index.json"] = marshal(v1.IndexManifest{SchemaVersion: 2, Manifests: []v1.Descriptor{d}})
	}
	return files
}

// Saved returns the files that `docker save` writes, by path.
func Saved(images ...Image) map[string][]byte {
	type element struct {
		Config           string
		RepoTags, Layers []string
	}
	files := map[string][]byte{}
	var list []element
	for _, i := range images {
		config := i.config()
		e := element{Config: hash(config).Hex + ".json"}
		if i.Reference != "" {
			e.RepoTags = []string{i.Reference}
		}
		files[e.Config] = config
		for _, l := range i.Layers {
			name := path.Join(hash(l).Hex, "layer.tar")
			e.Layers, files[name] = append(e.Layers, name), l
		}
		list = append(list, e)
	}
	files["manifest.json"] = marshal(list)
	return files
}

// Pack makes a tar archive of files, sorted.
func Pack(files map[string][]byte) []byte {
	var headers []tar.Header
	for _, name := range slices.Sorted(maps.Keys(files)) {
		headers = append(headers, Program(name, string(files[name])))
	}
	return Layer(headers...)
}

func (i Image) config() []byte {
	c := v1.ConfigFile{OS: "linux", Architecture: cmp.Or(i.Arch, runtime.GOARCH), Config: i.Config, RootFS: v1.RootFS{Type: "layers"}}
	for _, l := range i.Layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, hash(l))
	}
	return marshal(c)
}

// put adds a blob.
func put(files map[string][]byte, t types.MediaType, content []byte) v1.Descriptor {
	h := hash(content)
	files["blobs/sha256/"+h.Hex] = content
	return v1.Descriptor{MediaType: t, Size: int64(len(content)), Digest: h}
}

func hash(b []byte) v1.Hash {
	h, _, err := v1.SHA256(bytes.NewReader(b))
	must(err)
	return h
}

func compressed(b []byte) []byte {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, err := w.Write(b)
	must(err)
	must(w.Close())
	return z.Bytes()
}

func marshal(v any) []byte {
	b, err := json.Marshal(v)
	must(err)
	return b
}

// must panics: a test describes only what can be written.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
