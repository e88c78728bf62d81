package router

// drop is why a packet or message went no further; it labels the counter.
type drop string

func (d drop) Error() string { return string(d) }

const (
	dropTruncated    drop = "truncated"      // shorter than its own lengths say
	dropChecksum     drop = "checksum"       // wrong UDP checksum
	dropNotDHCP      drop = "not-dhcp"       // not UDP from port 546 to ff02::1:2 port 547
	dropSource       drop = "source"         // from a MAC or address that no client on the link has
	dropNotClient    drop = "not-client"     // a message that clients do not send, such as a Relay-forward
	dropRate         drop = "rate"           // the MAC sends too much
	dropNoAddress    drop = "no-address"     // the router has no address on the link yet
	dropNotUpstream  drop = "not-upstream"   // a reply from an address that is none of the servers
	dropNotRelayed   drop = "not-relayed"    // no Relay-reply, or one that answers nothing this process relayed
	dropNotServer    drop = "not-server"     // a message inside a Relay-reply that is no Advertise or Reply
	dropTooBig       drop = "too-big"        // larger than the link's MTU
	dropBacklog      drop = "backlog"        // more replies wait than are kept
	dropSend         drop = "send"           // the kernel refused to send
	dropOutsidePools drop = "outside-pools"  // no route: the prefix is not one of the pod's pools
	dropAgainst      drop = "against-record" // no route: the record gives the prefix to someone else, or to nobody
)
