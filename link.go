package sixacre

// BridgePort is a port of a bridge on a hypervisor, as the kernel shows it.
type BridgePort struct {
	Device      string
	Index       int
	MAC         MAC // of the host's side; libvirt makes it the guest's with fe as the first octet
	Bridge      string
	BridgeIndex int
}
