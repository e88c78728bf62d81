package main

import (
	"net/url"

	"github.com/spf13/cobra"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/control"
)

func whoisCommand() *cobra.Command {
	var pod string
	c := &cobra.Command{
		Use:   "whois ADDRESS|PREFIX|MAC [--pod POD]",
		Short: "Say who holds an address, a prefix or a MAC",
		Long: `Say who holds an address, a prefix or a MAC, and what was last heard of that NIC's
DHCPv6 client ('sixacre instance seen' tells more). A prefix in quarantine has its
last holder; an address that is declined is the one that the NIC had until its
client found another on the link with it. A link-local address, predicted or learned,
is found too.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			query := url.Values{"q": {args[0]}, "pod": {pod}}
			holder, err := call[control.Holder](c, "GET", "/v1/whois?"+query.Encode(), nil)
			if err != nil {
				return err
			}
			return show(c, holder, "INSTANCE POD MAC PREFIX STATE LAST MESSAGE", func(h control.Holder) []row {
				prefix, state, seen := "", string(h.State), sixacre.Sighting{}
				if h.Prefix.IsValid() {
					prefix = h.Prefix.String()
				}
				if h.Declined {
					state = "declined"
				}
				if h.Seen != nil {
					seen = *h.Seen
				}
				return []row{{h.Instance, h.Pod, h.MAC, prefix, state, instant(seen.Time), seen.Message}}
			})
		},
	}
	c.Flags().StringVar(&pod, "pod", "", "`name` of the pod to look in, where a MAC or link-local address is in several")
	return clientFlags(outputFlag(c))
}
