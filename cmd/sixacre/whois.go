package main

import (
	"net/url"

	"github.com/spf13/cobra"

	"github.com/sixacre/sixacre/control"
)

func whoisCommand() *cobra.Command {
	var pod string
	c := &cobra.Command{
		Use:   "whois ADDRESS|PREFIX|MAC [--pod POD]",
		Short: "Say who holds an address, a prefix or a MAC",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			query := url.Values{"q": {args[0]}, "pod": {pod}}
			holder, err := call[control.Holder](c, "GET", "/v1/whois?"+query.Encode(), nil)
			if err != nil {
				return err
			}
			return show(c, holder, "INSTANCE POD MAC PREFIX STATE", func(h control.Holder) []row {
				prefix := ""
				if h.Prefix.IsValid() {
					prefix = h.Prefix.String()
				}
				return []row{{h.Instance, h.Pod, h.MAC, prefix, h.State}}
			})
		},
	}
	c.Flags().StringVar(&pod, "pod", "", "`name` of the pod to look in, where a MAC is in several")
	return clientFlags(outputFlag(c))
}
