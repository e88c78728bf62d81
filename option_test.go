package sixacre

import (
	"net/netip"
	"testing"
)

func TestParseNTPServer(t *testing.T) {
	for in, want := range map[string]NTPServer{
		"2001:db8::123":    {Address: netip.MustParseAddr("2001:db8::123")},
		"ff05::101":        {Address: netip.MustParseAddr("ff05::101")},
		"ntp.example.net":  {Name: "ntp.example.net"},
		"ntp.example.net.": {Name: "ntp.example.net"},
	} {
		if got, err := ParseNTPServer(in); err != nil || got != want {
			t.Errorf("%s: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "::", "192.0.2.1", "::ffff:192.0.2.1", "fe80::1%eth0", "no name", "-x.example"} {
		if got, err := ParseNTPServer(in); CodeOf(err) != Invalid {
			t.Errorf("%q is taken for %v: %v", in, got, err)
		}
	}
}

func TestParseOption(t *testing.T) {
	for in, want := range map[string]string{"59=68": "59=68", "59=": "59=", "65535=00FF": "65535=00ff"} {
		if got, err := ParseOption(in); err != nil || got.String() != want {
			t.Errorf("%s: %s, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "59", "65536=00", "-1=00", "x=00", "59=0", "59=zz", "59=0x00"} {
		if got, err := ParseOption(in); CodeOf(err) != Invalid {
			t.Errorf("%q is taken for %v: %v", in, got, err)
		}
	}
}
