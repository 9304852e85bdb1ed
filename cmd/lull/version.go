package main

import (
	"context"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"
)

// version is set by the linker in released builds.
var version = ""

// ownVersion is what this program calls itself.
func ownVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "development build"
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
			// No agent is no failure: its version is good to know, no more.
			_ = a.ask(ctx, func(ctx context.Context, ag *agent) (err error) {
				agents, err = ag.manager.GetVersion(ctx)
				return err
			})
			if a.json {
				return a.writeJSON(struct {
					document
					Lull  string `json:"lull"`
					Agent string `json:"agent,omitempty"`
				}{one, ownVersion(), agents})
			}
			return a.fields([][2]string{{"lull", ownVersion()}, {"agent", either(agents, "not running")}})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}
