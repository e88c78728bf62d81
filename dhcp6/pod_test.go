package dhcp6

import (
	"testing"

	"github.com/sixacre/sixacre"
)

// Half and four fifths; infinity stays infinity (section 21.4), which no pod has.
func TestTimers(t *testing.T) {
	for _, test := range []struct{ preferred, t1, t2 sixacre.Seconds }{
		{14400, 7200, 11520},
		{1, 0, 0},
		{3, 1, 2},
		{sixacre.Infinity - 1, 0x7fffffff, 0xcccccccb},
		{sixacre.Infinity, sixacre.Infinity, sixacre.Infinity},
	} {
		if t1, t2 := timers(test.preferred); t1 != test.t1 || t2 != test.t2 {
			t.Errorf("%d: %d and %d, expected %d and %d", test.preferred, t1, t2, test.t1, test.t2)
		}
	}
}
