// Package sixacre holds the nouns of sixacre: an address and an acre for every
// instance. Each cloud instance gets an IPv6 address and one or more routed
// prefixes, and one record of that drives the DHCPv6 answer, the route on the
// routers and the filter on the hypervisor.
//
//	Internet / OSPF / BGP: the pool (a /40) is routed to the pod's routers
//	         │                               │
//	  ┌──────┴──────┐                 ┌──────┴──────┐        ┌──────────────────────┐
//	  │  router 1   │                 │  router 2   │        │   sixacre server     │
//	  │ RA, relay,  │                 │ RA, relay,  │─relay─▶│ API · store · DHCPv6 │
//	  │ PD routes   │                 │ PD routes   │        │                      │
//	  └──────┬──────┘                 └──────┬──────┘        └──────────┬───────────┘
//	   ══════╧════ layer 2 of the pod: one /64 ╧═══════════             │ watch (HTTPS)
//	             │                    │                                 │
//	       ┌─────┴──────┐       ┌─────┴──────┐                          │
//	       │ hypervisor │       │ hypervisor │◀── sixacre agent ────────┘
//	       │   filter   │       │   filter   │
//	       └──┬──────┬──┘       └──┬──────┬──┘
//	         i-1    i-2           i-3    i-4      instances: 1 address (/128) + n prefixes (/60)
//
// The folders are named after the actors of that picture: control deploys and
// retires, dhcpd answers, router relays and routes, hypervisor filters. Below
// them lie the pure packages addr, alloc, dhcp6 and firewall; at the edge the
// adapters etcd, api, nft, rtnl and ra; cmd/sixacre wires them together.
//
// This package imports none of the others. Its types are the ones that the API
// speaks, that the store keeps and that the pure packages compute with: there
// are no twins to convert between.
package sixacre
