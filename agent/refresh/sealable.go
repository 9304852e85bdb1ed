package refresh

import (
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
	others, err := e.neighbourTrees(instance)
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
	trees, _ := e.trees(pkg)
	for _, tree := range trees {
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
		candidates := map[vacancy.Inode]bool{}
		for _, path := range files {
			if links(path) > 2 {
				candidates[inode(path)] = true
			}
		}
		shared := e.inNeighbours(instance, candidates)
		files = slices.DeleteFunc(files, func(path string) bool { return shared[inode(path)] })
	}
	e.sealables.put(sealable{pkg: pkg, others: key.String(), files: files})
	return files, nil
}

// trees returns a package and its subpackages, each once. Whole is false if the manifest of
// one cannot be read.
func (e *Engine) trees(pkg digest.Digest) (list []digest.Digest, whole bool) {
	list, whole = []digest.Digest{pkg}, true
	for i := 0; i < len(list); i++ {
		m, err := e.Store.Launch(list[i])
		if err != nil {
			whole = false
			continue // without a tree no file is executed from it
		}
		for _, sub := range m.Subpackages {
			if !slices.Contains(list, sub) {
				list = append(list, sub)
			}
		}
	}
	return list, whole
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
