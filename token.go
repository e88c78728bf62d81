package sixacre

// Role says how far a credential reaches.
type Role string

const (
	RoleAdmin  Role = "admin"  // everything
	RoleHost   Role = "host"   // one hypervisor's own NICs, and what their filter needs to know
	RoleRouter Role = "router" // one pod
)

// Token is a credential of the network listener. Only the hash of its secret is
// kept.
type Token struct {
	Name string `json:"name" required:"true" example:"r1"`
	Role Role   `json:"role" required:"true" enum:"admin,host,router"`
	Host string `json:"host,omitempty" doc:"The hypervisor of a host token"`
	Pod  string `json:"pod,omitempty" doc:"The pod of a router token"`
	Hash []byte `json:"hash,omitempty" readOnly:"true" doc:"SHA-256 of the secret; never shown"`
}

// Validate refuses a token whose role lacks its object.
func (t Token) Validate() error {
	if err := ValidateName("token", t.Name); err != nil {
		return err
	}
	switch {
	case !oneOf(t.Role, RoleAdmin, RoleHost, RoleRouter):
		return Errorf(Invalid, "token %s: role %q is not known: use admin, host or router", t.Name, t.Role)
	case t.Role == RoleHost && t.Host == "":
		return Errorf(Invalid, "token %s: a host token needs its host", t.Name)
	case t.Role == RoleRouter && t.Pod == "":
		return Errorf(Invalid, "token %s: a router token needs its pod", t.Name)
	case t.Role != RoleHost && t.Host != "":
		return Errorf(Invalid, "token %s: host %s does not go with role %s: leave it out, or make a host token", t.Name, t.Host, t.Role)
	case t.Role != RoleRouter && t.Pod != "":
		return Errorf(Invalid, "token %s: pod %s does not go with role %s: leave it out, or make a router token", t.Name, t.Pod, t.Role)
	}
	return nil
}
