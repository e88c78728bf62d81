package main

import (
	"github.com/spf13/cobra"

	"github.com/sixacre/sixacre"
)

func peerCommand() *cobra.Command {
	return clientFlags(group("peer", "BGP neighbours of a pod (recorded; not spoken to yet)",
		peerCreate(),
		listCommand("peers", "/v1/peers", peerHeader, peerRows),
		getCommand("peer", "/v1/peers/", peerHeader, peerRows),
		deleteCommand("peer", "/v1/peers/", ""),
	))
}

const peerHeader = "NAME POD ADDRESS ASN"

func peerRows(p sixacre.Peer) []row { return []row{{p.Name, p.Pod, p.Address, p.ASN}} }

func peerCreate() *cobra.Command {
	var address string
	p := sixacre.Peer{}
	c := &cobra.Command{
		Use:   "create NAME --pod POD --address ADDR --asn N",
		Short: "Create a peer",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			p.Name = args[0]
			if p.Address, err = parseAddr("address")(address); err != nil {
				return err
			}
			made, err := call[sixacre.Peer](c, "POST", "/v1/peers", p)
			if err != nil {
				return err
			}
			return show(c, made, peerHeader, peerRows)
		},
	}
	c.Flags().StringVar(&p.Pod, "pod", "", "`name` of the pod")
	c.Flags().StringVar(&address, "address", "", "the neighbour's `address`")
	c.Flags().Uint32Var(&p.ASN, "asn", 0, "the neighbour's AS `number`")
	for _, name := range []string{"pod", "address", "asn"} {
		c.MarkFlagRequired(name)
	}
	return outputFlag(c)
}
