package main

import (
	"context"
	"path/filepath"
	"strings"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/userd/launch"
	"github.com/lull/lull/userd/userdata"
)

// store returns the root of the agent's store, as a launch finds it.
func (a *app) store() (string, error) {
	if a.root != "" {
		return a.root, nil
	}
	o := launch.Options{RunDir: a.runDir, User: a.user}
	return o.Store()
}

// ownData lists the data of applications in the home of the calling user. An agent that has
// never run has no data.
func (a *app) ownData(ctx context.Context) ([]userdata.Directory, error) {
	root, home, err := a.ownPlaces()
	if err != nil {
		return nil, nil
	}
	list, err := userdata.Survey(ctx, root, home)
	if err != nil {
		return nil, output.Error(errkind.KindOf(err), "cannot list the data in %s: %w", home, err)
	}
	return list, nil
}

func (a *app) ownPlaces() (root, home string, err error) {
	if root, err = a.store(); err != nil {
		return "", "", err
	}
	home, _, err = userdata.Home()
	return root, home, err
}

// cleanOwnData removes superseded data of the calling user, and reports it.
func (a *app) cleanOwnData(ctx context.Context) (uint64, error) {
	root, home, err := a.ownPlaces()
	if err != nil {
		return 0, nil // there is no data
	}
	n, err := userdata.Clean(ctx, root, home)
	if err != nil {
		return uint64(n), output.Error(errkind.KindOf(err), "cannot remove all superseded data in %s: %w", home, err)
	}
	if n > 0 && !a.JSON {
		err = a.Say(output.T("freed %s of superseded data in your home", output.Size(uint64(n))))
	}
	return uint64(n), err
}

func (a *app) superseded(ctx context.Context) (bytes uint64, err error) {
	list, err := a.ownData(ctx)
	for _, d := range list {
		if d.Kind == userdata.Superseded {
			bytes += uint64(d.Bytes)
		}
	}
	return bytes, err
}

type dataJSON struct {
	Instance string   `json:"instance"`
	Path     string   `json:"path"`
	Kind     string   `json:"kind"`
	Bytes    int64    `json:"bytes"`
	Missing  []string `json:"missing,omitempty"` // what this copy lacks, where it is
}

func datasJSON(list []userdata.Directory) []dataJSON {
	out := []dataJSON{}
	for _, d := range list {
		out = append(out, dataJSON{d.Instance, d.Path, string(d.Kind), d.Bytes, missingPaths(d)})
	}
	return out
}

func missingPaths(d userdata.Directory) (list []string) {
	for _, m := range d.Missing {
		list = append(list, filepath.Join(filepath.Dir(d.Path), m.In, m.Path))
	}
	return list
}

// kinds are the kinds of data in words.
var kinds = map[userdata.Kind]string{
	userdata.InUse: output.Mark("in use"), userdata.Kept: output.Mark("kept"), userdata.Superseded: output.Mark("superseded"),
	userdata.Foreign: output.Mark("another store's"), userdata.Left: output.Mark("not installed"), userdata.Unfinished: output.Mark("unfinished"),
}

func (a *app) dataTable(list []userdata.Directory) error {
	if len(list) == 0 {
		return nil
	}
	rows := make([][]string, len(list))
	for i, d := range list {
		rows[i] = []string{d.Instance, filepath.Base(d.Path), output.Size(uint64(d.Bytes)), output.Marked(kinds[d.Kind])}
	}
	if err := a.Say(""); err != nil {
		return err
	}
	return a.Table([]output.Column{
		{Title: "YOUR DATA OF", Least: 12}, {Title: "DIRECTORY", Least: 9}, {Title: "SIZE", Right: true}, {Title: "WHY", Least: 8},
	}, rows)
}

// dataCheck checks the data in the home of the calling user.
func (a *app) dataCheck(ctx context.Context) bus.Check {
	c := bus.Check{Name: output.T("your data"), State: "ok"}
	list, err := a.ownData(ctx)
	if err != nil {
		c.State, c.Seen, c.Advice = "warn", err.Error(), output.T("see that your home can be read")
		return c
	}
	var all, foreign, left int64
	var missing []string
	for _, d := range list {
		all += d.Bytes
		switch d.Kind {
		case userdata.Foreign:
			foreign += d.Bytes
		case userdata.Left:
			left += d.Bytes
		case userdata.InUse:
			missing = append(missing, missingPaths(d)...)
		}
	}
	c.Seen = output.Size(uint64(all))
	if left > 0 {
		c.Seen += output.T(", of which %s are of applications that are not installed", output.Size(uint64(left)))
	}
	if foreign > 0 {
		c.Seen += output.T(", of which %s were made by another store (lull du)", output.Size(uint64(foreign)))
	}
	if len(missing) > 0 {
		c.Seen += output.T("; of data in use was not copied: %s", strings.Join(missing, ", "))
		c.State = "warn"
		c.Advice = output.T("copy these files where they are needed, as their owner, or delete them: the directories that have them stay until then")
	}
	return c
}
