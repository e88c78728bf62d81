package sixacre

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

// plainPod is a pod that is valid.
func plainPod() Pod {
	return Pod{Name: "pod1", LinkPrefix: netip.MustParsePrefix("2001:db8:100:1::/64")}.WithDefaults()
}

func TestPodOptions(t *testing.T) {
	if err := plainPod().Validate(); err != nil {
		t.Fatal(err)
	}
	for _, code := range []uint16{17, 21, 31, 41, 59, 90, 94, 103, 136, 144, 1000, 65535} {
		p := plainPod()
		p.Options = []Option{{Code: code, Value: Octets{1}}}
		if err := p.Validate(); err != nil {
			t.Error(err)
		}
	}
	// What the server writes itself, what the protocol gives a meaning to, what is
	// between servers and relays, and what is inside another option.
	for _, code := range []uint16{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 19, 20, 23, 24, 25, 26, 32, 37, 38, 39,
		43, 48, 53, 56, 66, 67, 79, 82, 83, 87, 89, 91, 93, 100, 102, 105, 110, 114, 135, 138, 140, 148} {
		p := plainPod()
		p.Options = []Option{{Code: code, Value: Octets{1}}}
		if err := p.Validate(); CodeOf(err) != Invalid || !strings.Contains(err.Error(), "option ") {
			t.Errorf("option %d: %v", code, err)
		}
	}
	p := plainPod()
	p.Options = []Option{{Code: 59, Value: Octets{1}}, {Code: 60}, {Code: 59, Value: Octets{2}}}
	if err := p.Validate(); CodeOf(err) != Invalid || !strings.Contains(err.Error(), "option 59 is given twice") {
		t.Error(err)
	}
	// With headers, an NTP server by address takes 24 octets, n.example 19.
	for _, ntp := range []NTPServer{{Address: netip.MustParseAddr("2001:db8::1")}, {Name: "n.example"}} {
		rest := map[bool]int{true: maxOptions - 4 - 24, false: maxOptions - 4 - 19}[ntp.Name == ""]
		p.NTP = []NTPServer{ntp}
		p.Options = []Option{{Code: 59, Value: make(Octets, rest)}}
		if err := p.Validate(); err != nil {
			t.Error(err)
		}
		p.Options[0].Value = make(Octets, rest+1)
		if err := p.Validate(); CodeOf(err) != Invalid || !strings.Contains(err.Error(), "take 1025 octets, more than the 1024") {
			t.Error(err)
		}
	}
	p.Options, p.NTP = nil, []NTPServer{{}}
	if err := p.Validate(); CodeOf(err) != Invalid {
		t.Errorf("an NTP server that is none: %v", err)
	}
}

// A pod is the same after its way through the API and the store.
func TestPodRoundTrip(t *testing.T) {
	text := `{"name":"pod1","linkPrefix":"2001:db8:100:1::/64","ntp":["2001:db8::123","ff05::101","ntp.example.net"],` +
		`"options":[{"code":59,"value":"00ff"},{"code":60,"value":""}],"preference":255}`
	var p, again Pod
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &again); err != nil || !reflect.DeepEqual(p, again) {
		t.Errorf("%s: %+v, %+v, %v", b, p, again, err)
	}
	for _, field := range []string{`"ntp":["2001:db8::123","ff05::101","ntp.example.net"]`, `{"code":59,"value":"00ff"}`, `{"code":60,"value":""}`, `"preference":255`} {
		if !strings.Contains(string(b), field) {
			t.Errorf("%s is not in %s", field, b)
		}
	}
	for _, bad := range []string{`{"ntp":["x y"]}`, `{"options":[{"code":59,"value":"0"}]}`, `{"options":[{"code":65536}]}`, `{"preference":256}`} {
		if err := json.Unmarshal([]byte(bad), &p); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}

// A Remote-ID that carries the client's word needs the pod's word that it takes it.
func TestUntrustedRemoteID(t *testing.T) {
	for _, test := range []struct {
		format   RemoteIDFormat
		identify []Identifier
		ok       bool
	}{
		{RemoteIDRaw, nil, true},
		{RemoteIDDUID, nil, false},
		{RemoteIDHuawei, []Identifier{ByRemoteID}, false},
		{RemoteIDDUID, []Identifier{ByRemoteID, ByDUID}, true},
		{RemoteIDHuawei, []Identifier{ByDUID, ByClientLinkLayer, ByRemoteID}, true},
		{RemoteIDHuawei, []Identifier{ByClientLinkLayer}, true}, // nobody reads it
		{"guess", []Identifier{ByDUID, ByRemoteID}, false},
	} {
		p := plainPod()
		p.RemoteIDFormat = test.format
		if test.identify != nil {
			p.Identify = test.identify
		}
		if err := p.Validate(); (err == nil) != test.ok {
			t.Errorf("%s with %v: %v", test.format, test.identify, err)
		}
	}
}

func TestPodFilter(t *testing.T) {
	p := plainPod()
	if p.AntiSpoof != AntiSpoofAddress || p.Echo != EchoAllow {
		t.Errorf("defaults are %q and %q", p.AntiSpoof, p.Echo)
	}
	p.AntiSpoof, p.Echo = AntiSpoofLinkPrefix, EchoRules
	if err := p.Validate(); err != nil {
		t.Error(err)
	}
	p.AntiSpoof = "mac"
	if err := p.Validate(); CodeOf(err) != Invalid || !strings.Contains(err.Error(), `"mac"`) {
		t.Error(err)
	}
	p.AntiSpoof, p.Echo = AntiSpoofAddress, "deny"
	if err := p.Validate(); CodeOf(err) != Invalid || !strings.Contains(err.Error(), `"deny"`) {
		t.Error(err)
	}
}
