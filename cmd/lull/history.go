package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

// historyLimit is the default number of changes.
const historyLimit = 20

// historyWidth is the least number of columns for all of a change in one line.
const historyWidth = 100

func (a *app) historyCmd() *cobra.Command {
	limit := uint32(historyLimit)
	cmd := &cobra.Command{
		Use:   "history [APP]",
		Short: "Show what was installed, refreshed and removed",
		Long: `Shows the changes that have ended, the youngest first: when, by whom, how long
they took, and why one was undone. The time includes the wait until an
application was closed. A change that can be taken back has the command for it
in the line below.`,
		Example: `  lull history
  lull history org.example.notes
  lull history --limit 0             all that is remembered (200 changes)`,
		Args: args(0, 1),
		RunE: func(cmd *cobra.Command, names []string) error {
			instance := ""
			names, err := a.instances(cmd.Context(), names)
			if err != nil {
				return err
			}
			if len(names) == 1 {
				instance = names[0]
			}
			return a.ask(cmd.Context(), func(ctx context.Context, ag *agent) error {
				list, err := ag.manager.History(ctx, bus.HistoryOptions{Instance: instance})
				if err != nil {
					return err
				}
				slices.Reverse(list)
				if limit > 0 && len(list) > int(limit) {
					list = list[:limit]
				}
				if len(list) == 0 && instance != "" && !a.JSON {
					s, err := ag.overview(ctx)
					if err != nil {
						return err
					}
					if _, err := s.find(instance); err != nil {
						return output.Error(errkind.NotFound, "cannot show the history of %s: nothing is known of it", instance).
							WithHint("`lull history` shows that of all applications")
					}
				}
				return a.history(list)
			})
		},
		ValidArgsFunction: a.completeOneInstance,
	}
	cmd.Flags().Uint32Var(&limit, "limit", historyLimit, "show at most this `number` of changes; 0 means all")
	return cmd
}

// changeJSON is a change that has ended, in JSON.
type changeJSON struct {
	ID            string     `json:"id"`
	Kind          string     `json:"kind"`
	Instance      string     `json:"instance"`
	FromVersion   string     `json:"from-version,omitempty"`
	ToVersion     string     `json:"to-version,omitempty"`
	FromRevision  uint32     `json:"from-revision,omitempty"`
	ToRevision    uint32     `json:"to-revision,omitempty"`
	Repository    string     `json:"repository,omitempty"`
	Channel       string     `json:"channel,omitempty"`
	Result        string     `json:"result"`
	Reason        string     `json:"reason,omitempty"`
	By            *userJSON  `json:"by,omitempty"` // missing: the agent, by its schedule
	Began         *time.Time `json:"began,omitempty"`
	Ended         *time.Time `json:"ended"`
	BlockedMillis uint64     `json:"blocked-milliseconds"` // how long launches had to wait
	Purge         bool       `json:"purge,omitempty"`
	Undo          []string   `json:"undo,omitempty"` // the command that takes it back
}

type userJSON struct {
	UID  uint32 `json:"uid"`
	Name string `json:"name"`
}

func (a *app) history(list []bus.EndedRefresh) error {
	if a.JSON {
		doc := historyJSON{output.One, []changeJSON{}}
		for _, c := range list {
			j := changeJSON{ID: c.ID, Kind: c.Kind, Instance: c.Instance, FromVersion: c.FromVersion, ToVersion: c.ToVersion,
				FromRevision: c.FromRevision, ToRevision: c.ToRevision, Repository: c.Repository, Channel: c.Channel,
				Result: c.Result, Reason: c.Error, Began: output.Stamp(c.Began), Ended: output.Stamp(c.Ended),
				BlockedMillis: c.Blocked / 1000, Purge: c.Purge, Undo: a.undoCommand(c)}
			if c.Asked {
				j.By = &userJSON{c.UID, c.User}
			}
			doc.Changes = append(doc.Changes, j)
		}
		return a.WriteJSON(doc)
	}
	if len(list) == 0 {
		return a.Say(output.T("nothing has been changed yet"))
	}
	cols := []output.Column{{Title: "WHEN"}, {Title: "APPLICATION", Least: 16}, {Title: "CHANGE", Least: 12}, {Title: "RESULT"}}
	wide := a.Width == 0 || a.Width >= historyWidth
	if wide {
		cols = append(cols, output.Column{Title: "BY"}, output.Column{Title: "TOOK", Right: true})
	}
	var rows [][]string
	below := map[int][]string{}
	for i, c := range list {
		by := "lulld"
		if c.Asked {
			by = output.Either(c.User, fmt.Sprint(c.UID))
		}
		row := []string{when(output.FromBus(c.Ended), a.Now()), c.Instance, changeWords(c), output.StateText(c.Result)}
		if wide {
			row = append(row, by, took(c))
		} else {
			below[i] = []string{output.T("by %[1]s, took %[2]s", by, took(c))}
		}
		rows = append(rows, row)
		if c.Error != "" {
			below[i] = append(below[i], output.Wrap(output.OneLine(a.Foreign(c.Error)), a.Beside(2))...)
		}
		if undo := a.undoCommand(c); undo != nil {
			below[i] = append(below[i], output.T("undo: %s", strings.Join(undo, " ")))
		}
	}
	return a.TableNoted(cols, rows, below)
}

// changeWords describes the purpose of a change: "refresh 1.0 → 1.1".
func changeWords(c bus.EndedRefresh) string {
	kind, _ := verbOf(c.Kind)
	switch {
	case c.Kind == "remove" && c.Purge:
		return strings.TrimSpace(output.T("%[1]s %[2]s with data", kind, c.FromVersion))
	case c.Kind == "remove" || c.ToVersion == "":
		return strings.TrimSpace(kind + " " + c.FromVersion)
	case c.FromVersion == "":
		return kind + " " + c.ToVersion
	}
	return kind + " " + c.FromVersion + " → " + c.ToVersion
}

// undoCommand returns the command that reverses a change; nil means that there is none.
func (a *app) undoCommand(c bus.EndedRefresh) []string {
	lull := []string{"lull"}
	if a.user {
		lull = append(lull, "--user")
	}
	switch c.Undo {
	case "revert":
		return append(lull, "revert", "--revision", fmt.Sprint(c.FromRevision), c.Instance)
	case "remove":
		return append(lull, "remove", c.Instance)
	case "install":
		name, key, parallel := strings.Cut(c.Instance, "_")
		lull = append(lull, "install", "--repository", c.Repository)
		if c.Channel != "" {
			lull = append(lull, "--channel", c.Channel)
		}
		if parallel {
			lull = append(lull, "--key", key)
		}
		return append(lull, name)
	}
	return nil
}

// when formats a time in the past, for a table.
func when(t, now time.Time) string {
	t, now = t.Local(), now.Local()
	switch {
	case t.IsZero():
		return "-"
	case t.Format(time.DateOnly) == now.Format(time.DateOnly):
		return output.T("today %s", t.Format("15:04"))
	}
	return t.Format("2006-01-02 15:04")
}

// shortest is the shortest duration that is written as a number.
const shortest = 100 * time.Millisecond

// took returns the duration of a change, or "-" if its start is unknown or the clock was set
// back.
func took(c bus.EndedRefresh) string {
	began, ended := output.FromBus(c.Began), output.FromBus(c.Ended)
	if began.IsZero() || ended.Before(began) {
		return "-"
	}
	if d := ended.Sub(began); d >= shortest {
		return output.Duration(d)
	}
	return output.T("less than %s", output.Duration(shortest))
}

// historyJSON is what `lull history` writes, the youngest change first.
type historyJSON struct {
	output.Document
	Changes []changeJSON `json:"changes"`
}
