package main

import (
	"testing"

	"github.com/sixacre/sixacre"
)

// Without a server the pod is what the flags say, also where two say the same.
func TestRouterReadsItsPod(t *testing.T) {
	f := routerFlags{
		pod: "pod1", link: "eth1", upstreams: []string{"2001:db8::547"},
		linkPrefix: "2001:db8:100:1::/64", pools: []string{"2001:db8:4000::/40=60", "2001:db8:5000::/44"},
		addressing: "slaac", managed: "only", valid: "2h", preferred: "2h",
	}
	s, err := f.read(routerCommand())
	if err != nil {
		t.Fatal(err)
	}
	if p := s.pod; p.ValidLifetime != 7200 || p.PreferredLifetime != 7200 || len(p.Pools) != 2 || p.Managed != sixacre.ManagedOnly {
		t.Errorf("pod %+v", p)
	}
}
