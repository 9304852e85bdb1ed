package manager

import (
	"context"
	"time"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/store/gc"
)

// collectForSpace collects for a resolve that has hit a full disk.
func (m *Manager) collectForSpace(ctx context.Context) error {
	if err := m.system.MayCollect(); err != nil {
		return errkind.New(errkind.Busy, "cannot make room on the disk: %w", err).WithHint("%s", errkind.HintOf(err))
	}
	m.indices.Evict()
	_, err := m.space.Collect(ctx, 0)
	return err
}

// collected reports a collection, and applies its rules to what was made of files.
func (m *Manager) collected(ctx context.Context, result gc.Result, began time.Time, err error) {
	m.metrics.Collected(result, began, err)
	m.observer.SpaceChanged()
	m.files.Tidy(ctx)
}

// mayCollect returns why nothing may be collected; nil means that it may.
func (m *Manager) mayCollect() error {
	if err := m.root.MayChange("collect"); err != nil {
		return err
	}
	return m.system.MayCollect()
}

// freeAfterwards is how much a received file leaves free on the disk, in bytes.
const freeAfterwards = 64 << 20

// mayReceive returns an error of kind NoSpace if the disk cannot take that many bytes.
func (m *Manager) mayReceive(bytes int64) error {
	s, err := m.store.Space()
	if err == nil && s.Free < bytes+freeAfterwards {
		err = errkind.New(errkind.NoSpace, "the disk is full")
	}
	return err
}
