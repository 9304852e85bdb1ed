package manager

// A reserve is small beside its file system, and smaller yet in a user's own home.
const (
	reserveShare   = 20  // at most one part in this many of the file system
	ownReserveMost = 8e6 // bytes, for a user's own agent
)

// reserve returns how large the reserve should be, in bytes: as policy wants it, bounded by
// the size of the file system.
func (m *Manager) reserve() int64 {
	bytes := m.Policy().GC.Reserve
	if m.User {
		bytes = min(bytes, ownReserveMost)
	}
	if space, err := m.store.Space(); err == nil && space.Total > 0 {
		bytes = min(bytes, space.Total/reserveShare)
	}
	return bytes
}
