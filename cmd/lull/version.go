package main

import (
	"context"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"github.com/lull/lull/cmd/lull/output"
)

// version is set by the linker in released builds.
var version = ""

// ownVersion returns this program's version for the output.
func ownVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return output.T("development build")
}

func (a *app) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the versions of this command and of the agent",
		Args:  args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			agents := ""
			ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
			defer cancel()
			// A missing agent is no failure: its version is optional.
			_ = a.ask(ctx, func(ctx context.Context, ag *agent) (err error) {
				agents, err = ag.manager.GetVersion(ctx)
				return err
			})
			if a.JSON {
				return a.WriteJSON(versionJSON{output.One, ownVersion(), agents})
			}
			return a.Fields([][2]string{{"lull", ownVersion()}, {"agent", output.Either(agents, output.T("not running"))}})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

// versionJSON is what `lull version` writes.
type versionJSON struct {
	output.Document
	Lull  string `json:"lull"`
	Agent string `json:"agent,omitempty"`
}
