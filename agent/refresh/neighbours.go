package refresh

import (
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/vacancy"
)

// neighbours caches what the instances run from, so that the refresh of one reads no file of
// the others. Only the agent changes the links, and each change drops the entry of its
// instance. A current package is never collected, so its tree and its inodes stay the same
// until then; a repair of the store drops all entries.
type neighbours struct {
	mu      sync.Mutex // guards the fields below; held for memory access only
	of      map[string]neighbour
	inodes  int // in all entries
	changes int
}

// neighbour is the entry of one instance.
type neighbour struct {
	trees  []digest.Digest // of its current package and the subpackages
	files  []uint64        // inode numbers of their regular files, sorted, if listed
	listed bool
}

// keepInodes bounds the inode numbers in memory, at eight bytes each. The trees of
// instances beyond it are read each time.
const keepInodes = 1 << 17

func (n *neighbours) get(instance string) (entry neighbour, known bool, changes int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	entry, known = n.of[instance]
	return entry, known, n.changes
}

// put records an entry that was read after get returned changes.
func (n *neighbours) put(instance string, entry neighbour, changes int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if more := len(entry.files) - len(n.of[instance].files); n.changes == changes && n.inodes+more <= keepInodes {
		if n.of == nil {
			n.of = map[string]neighbour{}
		}
		n.of[instance] = entry
		n.inodes += more
	}
}

// forget drops the entry of an instance.
func (n *neighbours) forget(instance string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.inodes -= len(n.of[instance].files)
	delete(n.of, instance)
	n.changes++
}

// ForgetTrees drops what is known of the files of all packages, because the store has
// replaced some.
func (e *Engine) ForgetTrees() {
	e.neighbours.mu.Lock()
	defer e.neighbours.mu.Unlock()
	e.neighbours.of, e.neighbours.inodes = nil, 0
	e.neighbours.changes++
}

// swap makes a revision the current one.
func (e *Engine) swap(instance string, rev uint32) error {
	defer e.neighbours.forget(instance)
	return e.Links.Swap(instance, rev)
}

// drop leaves an instance without a current revision.
func (e *Engine) drop(instance string) error {
	defer e.neighbours.forget(instance)
	return e.Links.Drop(instance)
}

// neighbour returns the entry of an instance; ok is false if nothing is current.
func (e *Engine) neighbour(instance string) (entry neighbour, ok bool) {
	entry, known, changes := e.neighbours.get(instance)
	if known {
		return entry, true
	}
	_, pkg, err := e.Links.Read(instance)
	if err != nil {
		return entry, false
	}
	var whole bool
	if entry.trees, whole = e.trees(pkg); whole {
		e.neighbours.put(instance, entry, changes)
	}
	return entry, true
}

// neighbourTrees returns the trees that the other instances run from, sorted.
func (e *Engine) neighbourTrees(instance string) (list []digest.Digest, err error) {
	names, err := e.Links.Instances()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if name == instance {
			continue
		}
		if entry, ok := e.neighbour(name); ok {
			list = append(list, entry.trees...)
		}
	}
	slices.SortFunc(list, digest.Digest.Compare)
	return slices.Compact(list), nil
}

// inNeighbours returns which of the candidates are files of other instances, too.
func (e *Engine) inNeighbours(instance string, candidates map[vacancy.Inode]bool) map[vacancy.Inode]bool {
	shared := map[vacancy.Inode]bool{}
	names, _ := e.Links.Instances() // neighbourTrees has just read them
	for _, name := range names {
		entry, ok := e.neighbour(name)
		if name == instance || !ok {
			continue
		}
		files := entry.files
		if !entry.listed {
			_, _, changes := e.neighbours.get(name)
			whole := true
			for _, tree := range entry.trees {
				list, err := regularFiles(e.Store.PackageDir(tree))
				files, whole = append(files, list...), whole && err == nil
			}
			slices.Sort(files)
			files = slices.Compact(files)
			if whole {
				e.neighbours.put(name, neighbour{entry.trees, files, true}, changes)
			}
		}
		for in := range candidates {
			if _, found := slices.BinarySearch(files, in.Ino); found {
				shared[in] = true // the store is one file system
			}
		}
	}
	return shared
}

// regularFiles lists the inode numbers of the regular files in a tree, even beside an error.
func regularFiles(dir string) (list []uint64, err error) {
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, werr error) error {
		var st syscall.Stat_t
		if werr == nil && d.Type().IsRegular() {
			if werr = syscall.Lstat(path, &st); werr == nil {
				list = append(list, st.Ino)
			}
		}
		if werr != nil {
			err = werr
		}
		return nil // no process runs from a part that cannot be read
	})
	return list, err
}
