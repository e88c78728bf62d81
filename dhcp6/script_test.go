package dhcp6_test

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/sixacre/sixacre"
	"github.com/sixacre/sixacre/addr"
	"github.com/sixacre/sixacre/dhcp6"
)

var update = flag.Bool("update", false, "rewrite the expected answers in testdata/*.txt; read the difference")

var ourID = []byte{0, 2, 0, 0, 0, 1, 0x5a}

// TestScripts plays testdata/*.txt. A script declares what is on record:
//
//	pod {"name":"pod1",…}           as in the API
//	nic POD MAC [ADDRESS] PREFIX…   the address in a dhcpv6 pod only
//	behind                          the record may be older than another replica's
//
// then come packets and the answers to them. Lines with > make one packet, outer
// levels first:
//
//	> from ADDRESS                  its source, and maybe port=N
//	> relay-forward link=ADDRESS peer=ADDRESS hop=N interface-id=TEXT link-layer=MAC remote-id=HEX source-port=N
//	> solicit id=HEX client=DUID server=DUID rapid oro=CODE,… na=IAID[ADDRESS,…] pd=IAID[PREFIX,…]
//
// A DUID is in hexadecimal, or "us" for the server's own. Anything may be given
// twice; option=CODE:HEX gives any option at all, and a line "> cut N" drops the
// last octets of the packet. Lines with < are the answer, which -update rewrites:
// first the port that it goes to, what told the MAC and, if it is any, the effect
// on the client's leases.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts: ", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(text))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			compare(t, string(text), got)
		})
	}
}

// compare reports the first block, divided by empty lines, that differs.
func compare(t *testing.T, want, got string) {
	t.Helper()
	wants, gots := strings.Split(want, "\n\n"), strings.Split(got, "\n\n")
	for i := range wants {
		if i >= len(gots) || wants[i] != gots[i] {
			t.Errorf("expected:\n%s\ngot:\n%s", wants[i], gots[min(i, len(gots)-1)])
		}
	}
	if len(gots) > len(wants) {
		t.Errorf("%d blocks, expected %d", len(gots), len(wants))
	}
}

// record is what the script declared.
type record struct {
	pods []sixacre.Pod
	nics map[string]sixacre.NIC // by pod and MAC

	behind bool

	directory *dhcp6.Pods // made of the above when first needed
}

func (r *record) guest(a netip.Addr) bool {
	for _, nic := range r.nics {
		if nic.Address == a {
			return true
		}
	}
	return false
}

// play returns the script with the answers as they are.
func play(t *testing.T, script string) string {
	t.Helper()
	var out strings.Builder
	r := &record{nics: map[string]sixacre.NIC{}}
	var packet []string
	lines := strings.Split(strings.TrimSuffix(script, "\n"), "\n")
	for i, line := range lines {
		word, rest, _ := strings.Cut(line, " ")
		switch word {
		case "<":
			continue
		case "pod":
			var pod sixacre.Pod
			if err := json.Unmarshal([]byte(rest), &pod); err != nil {
				t.Fatalf("line %d: %v", i+1, err)
			}
			pod = pod.WithDefaults()
			if err := pod.Validate(); err != nil {
				t.Fatalf("line %d: %v", i+1, err)
			}
			r.pods, r.directory = append(r.pods, pod), nil
		case "nic":
			r.addNIC(t, strings.Fields(rest))
		case "behind":
			r.behind = true
		case ">":
			packet = append(packet, rest)
		case "", "#":
		default:
			t.Fatalf("line %d: what is %q?", i+1, line)
		}
		out.WriteString(line + "\n")
		if packet != nil && (i+1 == len(lines) || !strings.HasPrefix(lines[i+1], ">")) {
			for answer := range strings.Lines(r.ask(t, packet)) {
				out.WriteString("< " + answer)
			}
			packet = nil
		}
	}
	return out.String()
}

func (r *record) addNIC(t *testing.T, words []string) {
	t.Helper()
	nic := sixacre.NIC{Pod: words[0]}
	var err error
	if nic.MAC, err = sixacre.ParseMAC(words[1]); err != nil {
		t.Fatal(err)
	}
	for _, w := range words[2:] {
		if strings.Contains(w, "/") {
			nic.Prefixes = append(nic.Prefixes, netip.MustParsePrefix(w))
		} else {
			nic.Address = netip.MustParseAddr(w)
		}
	}
	for _, pod := range r.pods {
		if pod.Name == nic.Pod {
			r.nics[nic.Pod+" "+nic.MAC.String()] = addr.Complete(pod, nic)
			r.directory = nil
			return
		}
	}
	t.Fatalf("no pod %s", nic.Pod)
}

// ask returns the answer to a packet in words.
func (r *record) ask(t *testing.T, lines []string) string {
	t.Helper()
	payload, source := encode(t, lines)
	var q dhcp6.Query
	reply, client, why := r.answer(&q, payload, source.Addr())
	if why != dhcp6.Answered {
		return "silence: " + why.String() + "\n"
	}
	out := fmt.Sprintf("to port %d, known by %s", q.ReplyPort(source.Port()), client.By)
	if client.Mismatch {
		out += ", whose duid tells another mac"
	}
	if q.Effect != sixacre.NoEffect {
		out += ", " + map[sixacre.Effect]string{sixacre.Binds: "binds", sixacre.Releases: "releases", sixacre.Declines: "declines"}[q.Effect]
	}
	return out + "\n" + describe(reply, "")
}

func (r *record) answer(q *dhcp6.Query, payload []byte, source netip.Addr) ([]byte, dhcp6.Client, dhcp6.Reason) {
	if why := q.Parse(payload); why != dhcp6.Answered {
		return nil, dhcp6.Client{}, why
	}
	if r.directory == nil {
		r.directory = dhcp6.NewPods(r.pods, r.guest)
	}
	client, why := r.directory.Locate(q, source)
	if why != dhcp6.Answered {
		return nil, client, why
	}
	if r.pods[client.N].Name != client.Pod.Name {
		panic("pod " + client.Pod.Name + " is not in its place")
	}
	var nic *sixacre.NIC
	if n, ok := r.nics[client.Pod.Name+" "+client.MAC.String()]; ok {
		nic = &n
	}
	reply, why := dhcp6.Respond(nil, q, dhcp6.Server{DUID: ourID, Behind: r.behind}, client.Pod, nic)
	return reply, client, why
}

var messageTypes = map[string]dhcp6.MessageType{}

func init() {
	for t := range dhcp6.MessageType(50) {
		messageTypes[t.String()] = t
	}
}

// encode builds the packet that the lines describe, with no help from the code
// under test.
func encode(t *testing.T, lines []string) ([]byte, netip.AddrPort) {
	t.Helper()
	source := netip.MustParseAddrPort("[2001:db8:ffff::1]:547")
	var levels [][]byte
	cut := 0
	for _, line := range lines {
		words := strings.Fields(line)
		switch words[0] {
		case "from":
			port := uint64(547)
			if len(words) > 2 {
				port, _ = strconv.ParseUint(strings.TrimPrefix(words[2], "port="), 10, 16)
			}
			source = netip.AddrPortFrom(netip.MustParseAddr(words[1]), uint16(port))
		case "cut":
			cut, _ = strconv.Atoi(words[1])
		default:
			messageType, ok := messageTypes[words[0]]
			if !ok {
				t.Fatalf("no message type %q", words[0])
			}
			if messageType == dhcp6.RelayForward || messageType == dhcp6.RelayReply && strings.Contains(line, "link=") {
				levels = append(levels, encodeRelay(t, messageType, words[1:]))
			} else {
				levels = append(levels, encodeMessage(t, messageType, words[1:]))
			}
		}
	}
	inner := levels[len(levels)-1]
	for i := len(levels) - 2; i >= 0; i-- {
		inner = append(levels[i], option(9, inner)...)
	}
	return inner[:len(inner)-cut], source
}

func option(code int, data []byte) []byte {
	b := []byte{byte(code >> 8), byte(code), byte(len(data) >> 8), byte(len(data))}
	return append(b, data...)
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return b
}

// anyOption encodes option=CODE:HEX.
func anyOption(t *testing.T, value string) []byte {
	t.Helper()
	code, data, _ := strings.Cut(value, ":")
	n, err := strconv.Atoi(code)
	if err != nil {
		t.Fatal(err)
	}
	return option(n, unhex(t, data))
}

func encodeRelay(t *testing.T, messageType dhcp6.MessageType, words []string) []byte {
	t.Helper()
	b := make([]byte, 34)
	b[0] = byte(messageType)
	for _, w := range words {
		name, value, _ := strings.Cut(w, "=")
		switch name {
		case "hop":
			n, _ := strconv.Atoi(value)
			b[1] = byte(n)
		case "link":
			copy(b[2:], netip.MustParseAddr(value).AsSlice())
		case "peer":
			copy(b[18:], netip.MustParseAddr(value).AsSlice())
		case "interface-id":
			b = append(b, option(18, []byte(value))...)
		case "link-layer":
			mac, err := sixacre.ParseMAC(value)
			if err != nil {
				t.Fatal(err)
			}
			b = append(b, option(79, append([]byte{0, 1}, mac[:]...))...)
		case "remote-id":
			b = append(b, option(37, unhex(t, value))...)
		case "source-port":
			n, _ := strconv.Atoi(value)
			b = append(b, option(135, []byte{byte(n >> 8), byte(n)})...)
		case "option":
			b = append(b, anyOption(t, value)...)
		default:
			t.Fatalf("a relay does not say %q", w)
		}
	}
	return b
}

func encodeMessage(t *testing.T, messageType dhcp6.MessageType, words []string) []byte {
	t.Helper()
	b := []byte{byte(messageType), 0xab, 0xcd, 0xef}
	for _, w := range words {
		name, value, _ := strings.Cut(w, "=")
		switch name {
		case "id":
			copy(b[1:], unhex(t, value))
		case "client", "server":
			duid := ourID
			if value != "us" {
				duid = unhex(t, value)
			}
			b = append(b, option(map[string]int{"client": 1, "server": 2}[name], duid)...)
		case "rapid":
			b = append(b, option(14, nil)...)
		case "oro":
			var codes []byte
			for c := range strings.SplitSeq(value, ",") {
				n, _ := strconv.Atoi(c)
				codes = binary.BigEndian.AppendUint16(codes, uint16(n))
			}
			b = append(b, option(6, codes)...)
		case "na", "pd":
			b = append(b, encodeIA(t, name, value)...)
		case "option":
			b = append(b, anyOption(t, value)...)
		default:
			t.Fatalf("a client does not say %q", w)
		}
	}
	return b
}

func encodeIA(t *testing.T, kind, value string) []byte {
	t.Helper()
	id, leases, _ := strings.Cut(strings.TrimSuffix(value, "]"), "[")
	n, err := strconv.ParseUint(id, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	ia := binary.BigEndian.AppendUint32(nil, uint32(n))
	// What a client writes into T1, T2 and lifetimes must not matter.
	ia = append(ia, 0, 0, 0, 77, 0, 0, 0, 88)
	for lease := range strings.SplitSeq(leases, ",") {
		switch {
		case lease == "":
		case kind == "na":
			data := append(netip.MustParseAddr(lease).AsSlice(), 0, 0, 0, 5, 0, 0, 0, 6)
			ia = append(ia, option(5, data)...)
		default:
			p := netip.MustParsePrefix(lease)
			data := append([]byte{0, 0, 0, 5, 0, 0, 0, 6, byte(p.Bits())}, p.Addr().AsSlice()...)
			ia = append(ia, option(26, data)...)
		}
	}
	return option(map[string]int{"na": 3, "pd": 25}[kind], ia)
}

// describe puts a message of the server's into words, whole: what it cannot read
// it shows.
func describe(b []byte, indent string) string {
	if len(b) < 4 {
		return fmt.Sprintf("%sbroken message %x\n", indent, b)
	}
	t := dhcp6.MessageType(b[0])
	if t == dhcp6.RelayReply && len(b) >= 34 {
		out := fmt.Sprintf("%s%s hop=%d link=%s peer=%s\n", indent, t, b[1], address(b[2:18]), address(b[18:34]))
		return out + describeOptions(b[34:], indent+"  ")
	}
	return fmt.Sprintf("%s%s id=%x\n", indent, t, b[1:4]) + describeOptions(b[4:], indent+"  ")
}

func address(b []byte) netip.Addr { a, _ := netip.AddrFromSlice(b); return a }

func describeOptions(b []byte, indent string) string {
	var out strings.Builder
	for len(b) >= 4 {
		code, n := int(binary.BigEndian.Uint16(b)), int(binary.BigEndian.Uint16(b[2:]))
		if len(b) < 4+n {
			break
		}
		data := b[4 : 4+n]
		b = b[4+n:]
		number := func(at int) uint32 { return binary.BigEndian.Uint32(data[at:]) }
		switch {
		case code == 1:
			fmt.Fprintf(&out, "%sclient %x\n", indent, data)
		case code == 2:
			fmt.Fprintf(&out, "%sserver %x\n", indent, data)
		case (code == 3 || code == 25) && n >= 12:
			fmt.Fprintf(&out, "%s%s %d t1=%d t2=%d\n", indent, map[int]string{3: "na", 25: "pd"}[code], number(0), number(4), number(8))
			out.WriteString(describeOptions(data[12:], indent+"  "))
		case code == 5 && n == 24:
			fmt.Fprintf(&out, "%s%s preferred=%d valid=%d\n", indent, address(data[:16]), number(16), number(20))
		case code == 26 && n == 25:
			fmt.Fprintf(&out, "%s%s/%d preferred=%d valid=%d\n", indent, address(data[9:]), data[8], number(0), number(4))
		case code == 7 && n == 1:
			fmt.Fprintf(&out, "%spreference %d\n", indent, data[0])
		case code == 9:
			out.WriteString(describe(data, indent))
		case code == 13 && n >= 2:
			fmt.Fprintf(&out, "%sstatus %s %q\n", indent, dhcp6.StatusCode(binary.BigEndian.Uint16(data)), data[2:])
		case code == 14 && n == 0:
			fmt.Fprintf(&out, "%srapid\n", indent)
		case code == 18:
			fmt.Fprintf(&out, "%sinterface-id %q\n", indent, data)
		case code == 23 && n%16 == 0:
			fmt.Fprintf(&out, "%sdns", indent)
			for ; len(data) > 0; data = data[16:] {
				fmt.Fprintf(&out, " %s", address(data[:16]))
			}
			out.WriteString("\n")
		case code == 24:
			fmt.Fprintf(&out, "%sdomains %q\n", indent, data)
		case (code == 32 || code == 82 || code == 83) && n == 4:
			fmt.Fprintf(&out, "%s%s=%d\n", indent, map[int]string{32: "information-refresh-time", 82: "sol-max-rt", 83: "inf-max-rt"}[code], number(0))
		case code == 56 && n == 20 && (data[1] == 1 || data[1] == 2):
			fmt.Fprintf(&out, "%sntp %x %s\n", indent, data[:4], address(data[4:]))
		case code == 56 && n > 4:
			fmt.Fprintf(&out, "%sntp %x %q\n", indent, data[:4], data[4:])
		case code == 135 && n == 2:
			fmt.Fprintf(&out, "%ssource-port=%d\n", indent, binary.BigEndian.Uint16(data))
		default:
			fmt.Fprintf(&out, "%soption %d:%x\n", indent, code, data)
		}
	}
	if len(b) > 0 {
		fmt.Fprintf(&out, "%sbroken option %x\n", indent, b)
	}
	return out.String()
}
