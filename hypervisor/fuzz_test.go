package hypervisor_test

import (
	"slices"
	"strings"
	"testing"
)

// TestFuzzedFrames changes octets of frames that mean something, and what comes
// out where is what the twin says. See [TestTwin].
func TestFuzzedFrames(t *testing.T) { agree(t, (*maker).fuzzed) }

// fuzzed is a probe of one packet with some octets changed.
func (m *maker) fuzzed() probe {
	for {
		p := m.probe()
		if strings.Contains(p.name, " between ") {
			continue // an exchange
		}
		p.name = "mutated " + p.name
		for i, s := range p.frames {
			p.frames[i].frame = m.mutated(s.frame)
		}
		if !m.untold(p) {
			return p
		}
	}
}

// mutated changes one to three places of a frame, and has it right again in
// some that a receiver checks.
func (m *maker) mutated(frame []byte) []byte {
	f := slices.Clone(frame)
	for range 1 + m.chance(3) {
		at := m.chance(len(f))
		if m.oneIn(2) {
			at = min(12+m.chance(90), len(f)-1)
		}
		switch m.chance(6) {
		case 0:
			f[at] ^= 1 << m.chance(8)
		case 1:
			f[at] = byte(m.chance(256))
		case 2:
			f[at] = pick(m.chance, byte(0), 1, 6, 17, 43, 44, 50, 51, 58, 59, 60, 128, 134, 135, 136, 254, 255)
		case 3:
			f[at] = f[m.chance(len(f))]
		case 4: // 8 octets less
			if len(f) > 70 && at > 14 && at+8 < len(f) {
				f = slices.Delete(f, at, at+8)
			}
		case 5: // or more
			if at > 14 {
				f = slices.Insert(f, at, make([]byte, 8)...)
			}
		}
	}
	// Fragments of one packet do not differ in congestion marks (RFC 3168 section
	// 5.3).
	f[14], f[15] = f[14]&0xf0|frame[14]&0xf, frame[15]
	if m.oneIn(2) && len(f) >= 54 && f[12] == 0x86 {
		f[18], f[19] = byte((len(f)-54)>>8), byte(len(f)-54)
	}
	if p := read(f); m.oneIn(2) && p.malformed == "" && p.innerUpper != nil && !p.fragmented {
		checksum(p.innerUpper, byte(p.inner), p.src.As16(), p.dst.As16())
	}
	return f
}
