package sixacre

import (
	"strings"
	"testing"
)

func TestIncludePrefixesNeedsARemoteGroup(t *testing.T) {
	r := Rule{Direction: In, Protocol: TCP, IncludePrefixes: true, Remote: Remote{Group: "web"}}
	if err := r.Validate(); err != nil {
		t.Error(err)
	}
	for _, remote := range []string{"", "2001:db8::/32"} {
		if err := r.Remote.UnmarshalText([]byte(remote)); err != nil {
			t.Fatal(err)
		}
		if err := r.Validate(); CodeOf(err) != Invalid || !strings.Contains(err.Error(), "group:NAME") {
			t.Errorf("with remote %q: %v", remote, err)
		}
	}
}
