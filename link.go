package sixacre

// BridgePort is a port of a bridge on a hypervisor, as the kernel shows it.
type BridgePort struct {
	Device      string
	Index       int
	MAC         MAC // of the host's side; libvirt makes it the guest's with fe as the first octet
	Bridge      string
	BridgeIndex int

	Confined bool // the bridge treats frames to reserved groups as any other
	Learning bool // the bridge learns MACs from it
	Tracked  bool // the bridge shows its IPv6 to the firewall's ip6 hooks
}
