package main

import (
	"context"
	"encoding/json"

	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
)

func (a *app) inspectCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "inspect",
		Short: "Show everything the agent knows, as JSON",
		Long: `Shows everything the agent knows: what is protected by whom, runs, refreshes,
transfers. It is JSON in any case.`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(cmd.Context(), func(ctx context.Context, ag *agent) error {
				text, err := ag.manager.Inspect(ctx)
				if err != nil {
					return err
				}
				var doc map[string]json.RawMessage
				if err := json.Unmarshal([]byte(text), &doc); err != nil {
					return output.Error(errkind.Failed, "cannot read the agent's answer: %w", err)
				}
				if _, ok := doc["version"]; !ok {
					doc["version"] = json.RawMessage("1")
				}
				return a.WriteJSON(doc)
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}
