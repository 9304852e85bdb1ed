package unpack

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"pault.ag/go/debian/deb"

	"github.com/lull/lull/agent/convert"
)

// The bounds of a container image, beside those of its files.
const (
	maxLayers      = 200
	maxManifests   = 200
	maxIndexDepth  = 4
	maxDocument    = 4 << 20 // bytes of an index, a manifest or a configuration
	maxArchiveList = 20_000  // members of an archive of images
)

// Image is the configuration of a container image, where it concerns a package (OCI image
// specification, "Image Configuration").
type Image struct {
	Command     []string // entrypoint and its arguments
	Environment []string // NAME=VALUE
	WorkingDir  string
	User        string
	Volumes     []string          // sorted
	Annotations map[string]string // of index and manifest
	Labels      map[string]string // of the configuration
	Reference   string            // as docker.io/library/name:tag, or ""
}

// archive is a tar archive with container images: an OCI layout, or what `docker save`
// writes. It is read from its beginning for each member.
type archive struct {
	in      *io.SectionReader
	ext     string // of its compression
	limits  Limits
	members map[string]member // by path
}

type member struct {
	size  int64
	link  string // path of the target, or ""
	twice bool
}

// imageMember matches the first member of archives of images as the usual programs write them.
var imageMember = regexp.MustCompile(`^(blobs|oci-layout|index\.json|manifest\.json|repositories|(sha256:)?[0-9a-f]{64})([./]|$)`)

// openArchive returns nil unless the tar archive has container images.
func openArchive(in *io.SectionReader, ext string, limits Limits) *archive {
	a := &archive{in: in, ext: ext, limits: limits, members: map[string]member{}}
	err := a.scan(func(name string, h *tar.Header, _ io.Reader) (bool, error) {
		// A compressed archive of another kind is not decompressed twice.
		if len(a.members) == 0 && ext != "" && !imageMember.MatchString(name) || len(a.members) == maxArchiveList {
			return false, errors.New("it has no images")
		}
		m := member{size: h.Size}
		switch h.Typeflag {
		case tar.TypeReg:
		case tar.TypeSymlink:
			m.link = path.Join(path.Dir(name), h.Linkname)
		case tar.TypeLink:
			m.link = path.Clean(h.Linkname)
		default:
			return true, nil
		}
		_, m.twice = a.members[name]
		a.members[name] = m
		return true, nil
	})
	_, source := a.members[convert.SourceFile]
	if err != nil || source || !a.isLayout() && len(a.saved()) == 0 {
		return nil
	}
	return a
}

func (a *archive) isLayout() bool {
	_, layout := a.members["oci-layout"]
	_, index := a.members["index.json"]
	return layout && index
}

// scan calls visit with each member until it returns false. The names are clean.
func (a *archive) scan(visit func(name string, h *tar.Header, r io.Reader) (more bool, err error)) error {
	if _, err := a.in.Seek(0, io.SeekStart); err != nil {
		return err
	}
	var plain io.Reader = a.in // contents are skipped by Seek
	if a.ext != "" {
		z, err := deb.DecompressorFor(a.ext)(a.in)
		if err != nil {
			return err
		}
		defer z.Close()
		plain = io.LimitReader(z, streamLimit(a.limits))
	}
	r := tar.NewReader(plain)
	for {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		name := path.Clean(h.Name)
		if name == "." {
			continue
		}
		if more, err := visit(name, h, r); err != nil || !more {
			return err
		}
	}
}

// open calls use with the content of a member. Symlinks and hard links are followed within the
// archive.
func (a *archive) open(name string, use func(r io.Reader, size int64) error) error {
	at := path.Clean(name)
	for range 8 {
		m, ok := a.members[at]
		switch {
		case !ok:
			return fmt.Errorf("its archive has no %.300q", name)
		case m.twice:
			return fmt.Errorf("its archive has %.300q twice", at)
		case m.link != "":
			at = m.link
			continue
		}
		return a.scan(func(name string, h *tar.Header, r io.Reader) (bool, error) {
			if name != at || h.Typeflag != tar.TypeReg {
				return true, nil
			}
			return false, use(r, h.Size)
		})
	}
	return fmt.Errorf("its archive has too many links at %.300q", name)
}

// read returns a small member.
func (a *archive) read(name string) (content []byte, err error) {
	err = a.open(name, func(r io.Reader, size int64) error {
		if size > maxDocument {
			return fmt.Errorf("%.300q has more than %d bytes", name, maxDocument)
		}
		content, err = io.ReadAll(r)
		return err
	})
	return content, err
}

// blob returns a small blob of a layout.
func (a *archive) blob(d v1.Descriptor) ([]byte, error) {
	content, err := a.read(blobPath(d.Digest))
	if err != nil {
		return nil, err
	}
	return content, verify(content, d.Digest)
}

func blobPath(h v1.Hash) string { return path.Join("blobs", h.Algorithm, h.Hex) }

func verify(content []byte, want v1.Hash) error {
	got, _, err := v1.SHA256(strings.NewReader(string(content)))
	if err == nil && got != want {
		err = fmt.Errorf("the content of %s has the digest %s", want, got)
	}
	return err
}

// candidate is an image of an archive.
type candidate struct {
	reference   string
	annotations map[string]string // of index and manifest
	config      *v1.ConfigFile
	layers      []layerFile
}

// layerFile is a layer in an archive.
type layerFile struct {
	path   string
	digest v1.Hash // of the file; zero if the archive does not have it
}

// platform is that of this machine in the words of images (OCI image specification, "Image
// Index").
var platform = v1.Platform{OS: "linux", Architecture: runtime.GOARCH}

func fits(p *v1.Platform) bool {
	return p != nil && p.OS == platform.OS && p.Architecture == platform.Architecture
}

// choose returns the only image for this machine.
func (a *archive) choose() (*candidate, error) {
	var list []*candidate
	others := map[string]bool{} // platforms
	var err error
	if a.isLayout() {
		list, err = a.inLayout(others)
	} else {
		list, err = a.inSaved(others)
	}
	if err != nil {
		return nil, err
	}
	switch len(list) {
	case 0:
		return nil, fmt.Errorf("it has no image for %s, but for: %s", platform, strings.Join(slices.Sorted(maps.Keys(others)), ", "))
	case 1:
		return list[0], nil
	}
	var names []string
	for _, c := range list {
		if c.reference != "" {
			names = append(names, fmt.Sprintf("%.80q", c.reference))
		}
	}
	return nil, fmt.Errorf("it has %d images for %s (%s), and an archive with one is wanted", len(list), platform, strings.Join(names[:min(len(names), 10)], ", "))
}

// inLayout returns the images of an OCI layout for this machine.
func (a *archive) inLayout(others map[string]bool) (list []*candidate, err error) {
	top, err := a.read("index.json")
	if err != nil {
		return nil, err
	}
	seen, read := map[v1.Hash]bool{}, 0
	var walk func(content []byte, from map[string]string, depth int) error
	walk = func(content []byte, from map[string]string, depth int) error {
		index, err := v1.ParseIndexManifest(strings.NewReader(string(content)))
		if err != nil {
			return fmt.Errorf("its index: %w", err)
		}
		for _, d := range index.Manifests {
			if seen[d.Digest] {
				continue
			}
			seen[d.Digest] = true
			if read++; read > maxManifests || depth > maxIndexDepth {
				return errors.New("its index is too large or too deep")
			}
			all := merged(from, index.Annotations, d.Annotations)
			switch {
			case d.MediaType.IsIndex():
				content, err := a.blob(d)
				if err == nil {
					err = walk(content, all, depth+1)
				}
				if err != nil {
					return err
				}
			case d.MediaType.IsImage() && (d.Platform == nil || fits(d.Platform)):
				c, err := a.manifest(d, all)
				if err != nil {
					return err
				}
				if fits(c.config.Platform()) {
					list = append(list, c)
				} else {
					others[c.config.Platform().String()] = true
				}
			case d.Platform != nil:
				others[d.Platform.String()] = true
			default:
				others[fmt.Sprintf("%.80q", string(d.MediaType))] = true
			}
		}
		return nil
	}
	return list, walk(top, nil, 1)
}

// manifest reads the manifest and the configuration of an image.
func (a *archive) manifest(d v1.Descriptor, from map[string]string) (*candidate, error) {
	content, err := a.blob(d)
	if err != nil {
		return nil, err
	}
	m, err := v1.ParseManifest(strings.NewReader(string(content)))
	if err != nil {
		return nil, fmt.Errorf("its manifest: %w", err)
	}
	if !m.Config.MediaType.IsConfig() {
		return nil, fmt.Errorf("it is no image of files: its configuration is of the type %.80q", m.Config.MediaType)
	}
	if content, err = a.blob(m.Config); err != nil {
		return nil, err
	}
	c := &candidate{annotations: merged(from, m.Annotations)}
	for _, key := range []string{"io.containerd.image.name", "org.opencontainers.image.ref.name"} {
		if c.reference == "" {
			c.reference = c.annotations[key]
		}
	}
	for _, l := range m.Layers {
		if !l.MediaType.IsLayer() {
			return nil, fmt.Errorf("it is no image of files: a layer is of the type %.80q", l.MediaType)
		}
		c.layers = append(c.layers, layerFile{blobPath(l.Digest), l.Digest})
	}
	return c, c.configure(content)
}

// configure reads the configuration of an image.
func (c *candidate) configure(content []byte) (err error) {
	if c.config, err = v1.ParseConfigFile(strings.NewReader(string(content))); err != nil {
		return fmt.Errorf("its configuration: %w", err)
	}
	if c.config.Platform() == nil {
		return errors.New("its configuration names no platform")
	}
	switch n := len(c.layers); {
	case n == 0:
		return errors.New("it is an image without layers")
	case n > maxLayers:
		return fmt.Errorf("it has more than %d layers", maxLayers)
	case n != len(c.config.RootFS.DiffIDs):
		return fmt.Errorf("it has %d layers, and its configuration has digests of %d", n, len(c.config.RootFS.DiffIDs))
	}
	return nil
}

// savedImage is an element of manifest.json, which `docker save` writes.
type savedImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// saved returns the images that manifest.json names.
func (a *archive) saved() (list []savedImage) {
	const name = "manifest.json"
	if _, ok := a.members[name]; !ok {
		return nil
	}
	content, err := a.read(name)
	if err != nil || json.Unmarshal(content, &list) != nil || slices.ContainsFunc(list, func(s savedImage) bool { return s.Config == "" || len(s.Layers) == 0 }) {
		return nil // another program's manifest.json
	}
	return list
}

// inSaved returns the images for this machine in what `docker save` has written.
func (a *archive) inSaved(others map[string]bool) (list []*candidate, err error) {
	for i, s := range a.saved() {
		if i == maxManifests {
			return nil, fmt.Errorf("it has more than %d images", maxManifests)
		}
		content, err := a.read(s.Config)
		if err != nil {
			return nil, err
		}
		// Its name is its digest.
		if hash, err := v1.NewHash("sha256:" + strings.TrimSuffix(path.Base(s.Config), ".json")); err == nil {
			if err := verify(content, hash); err != nil {
				return nil, err
			}
		}
		c := &candidate{}
		if len(s.RepoTags) > 0 {
			c.reference = s.RepoTags[0]
		}
		for _, l := range s.Layers {
			c.layers = append(c.layers, layerFile{path: l})
		}
		if err := c.configure(content); err != nil {
			return nil, err
		}
		if fits(c.config.Platform()) {
			list = append(list, c)
		} else {
			others[c.config.Platform().String()] = true
		}
	}
	return list, nil
}

// merged returns the union of maps; a later one counts more.
func merged(list ...map[string]string) map[string]string {
	all := map[string]string{}
	for _, m := range list {
		maps.Copy(all, m)
	}
	return all
}

// image adds the files of the image for this machine.
func (t *Tree) image(a *archive) error {
	c, err := a.choose()
	if err != nil {
		return err
	}
	files := t.empty()
	for i, l := range c.layers {
		if err := files.addLayer(a, l, c.config.RootFS.DiffIDs[i]); err != nil {
			return fmt.Errorf("layer %d: %w", i+1, err)
		}
	}
	for _, p := range files.Paths() {
		if err := t.add(p, files.Nodes[p]); err != nil {
			return err
		}
	}
	if t.Image != nil {
		return nil // the first image names the package
	}
	config := c.config.Config
	t.Image = &Image{Command: slices.Concat(config.Entrypoint, config.Cmd), Environment: config.Env, WorkingDir: config.WorkingDir, User: config.User,
		Volumes: slices.Sorted(maps.Keys(config.Volumes)), Annotations: c.annotations, Labels: config.Labels, Reference: c.reference}
	return nil
}
