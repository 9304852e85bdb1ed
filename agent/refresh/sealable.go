package refresh

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/vacancy"
)

// sealables caches which files of packages are sealed: finding them takes a walk through the
// tree, and a tree never changes.
type sealables struct {
	mu   sync.Mutex // guards the fields below; held for memory access only
	last []sealable // youngest last
}

// sealable is the answer for one package.
type sealable struct {
	pkg    digest.Digest
	others string   // the packages of other instances at that time
	files  []string // paths
}

// keepSealables bounds the cache.
const keepSealables = 16

func (k *sealables) get(pkg digest.Digest, others string) ([]string, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range k.last {
		if s.pkg == pkg && s.others == others {
			return s.files, true
		}
	}
	return nil, false
}

func (k *sealables) put(s sealable) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.last = slices.DeleteFunc(k.last, func(o sealable) bool { return o.pkg == s.pkg })
	if k.last = append(k.last, s); len(k.last) > keepSealables {
		k.last = slices.Delete(k.last, 0, len(k.last)-keepSealables)
	}
}

// sealableFiles lists the executable files of a package and its subpackages. It leaves out
// files whose content is also in another instance's current package. They are one inode, so
// that a lease would be denied because of that instance's processes, and would delay them.
func (e *Engine) sealableFiles(instance string, pkg digest.Digest) ([]string, error) {
	others, err := e.othersTrees(instance)
	if err != nil {
		return nil, err
	}
	var key strings.Builder
	for _, o := range others {
		key.WriteString(o.String())
	}
	if files, ok := e.sealables.get(pkg, key.String()); ok {
		return files, nil
	}
	var files []string
	linked := false // has more names than those in blobs/ and in this tree
	for _, tree := range e.trees(pkg) {
		if slices.Contains(others, tree) {
			continue
		}
		list, err := vacancy.Executable(e.Store.PackageDir(tree))
		if err != nil {
			return nil, err
		}
		for _, path := range list {
			linked = linked || links(path) > 2
		}
		files = append(files, list...)
	}
	if linked && len(others) > 0 {
		shared := e.inTrees(others)
		files = slices.DeleteFunc(files, func(path string) bool { return links(path) > 2 && shared[inode(path)] })
	}
	e.sealables.put(sealable{pkg: pkg, others: key.String(), files: files})
	return files, nil
}

// trees returns a package and its subpackages, each once.
func (e *Engine) trees(pkg digest.Digest) []digest.Digest {
	list := []digest.Digest{pkg}
	for i := 0; i < len(list); i++ {
		m, err := e.Store.Launch(list[i])
		if err != nil {
			continue // without a tree no file is executed from it
		}
		for _, sub := range m.Subpackages {
			if !slices.Contains(list, sub) {
				list = append(list, sub)
			}
		}
	}
	return list
}

// othersTrees returns the trees that the other instances run from, sorted.
func (e *Engine) othersTrees(instance string) (list []digest.Digest, err error) {
	names, err := e.Links.Instances()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if name == instance {
			continue
		}
		if _, pkg, err := e.Links.Read(name); err == nil {
			list = append(list, e.trees(pkg)...)
		}
	}
	slices.SortFunc(list, digest.Digest.Compare)
	return slices.Compact(list), nil
}

// inTrees returns the inodes of trees that have several names.
func (e *Engine) inTrees(trees []digest.Digest) map[vacancy.Inode]bool {
	set := map[vacancy.Inode]bool{}
	for _, tree := range trees {
		_ = filepath.WalkDir(e.Store.PackageDir(tree), func(path string, d os.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() && links(path) > 2 {
				set[inode(path)] = true
			}
			return nil // nothing runs from an unreadable tree
		})
	}
	return set
}

func links(path string) uint64 {
	var st syscall.Stat_t
	if syscall.Lstat(path, &st) != nil {
		return 0
	}
	return uint64(st.Nlink)
}

func inode(path string) vacancy.Inode {
	var st syscall.Stat_t
	if syscall.Lstat(path, &st) != nil {
		return vacancy.Inode{}
	}
	return vacancy.Inode{Dev: st.Dev, Ino: st.Ino}
}
