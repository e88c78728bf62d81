package firewall

import (
	"slices"
	"strings"
)

// Canonical returns what nft list printed with the order taken out that means
// nothing: that of the elements of a set, which the kernel rehashes as it
// likes, and that in which tables, sets and chains were made. Two listings say
// the same if they are the same in this form.
func Canonical(listing string) string {
	var tables, blocks, block []string
	head := ""
	for line := range strings.Lines(listing) {
		line = strings.TrimRight(line, "\n")
		switch {
		case line == "":
		case line == "}":
			slices.Sort(blocks)
			tables = append(tables, strings.Join(append([]string{head}, blocks...), "\n"))
			blocks = nil
		case !strings.HasPrefix(line, "\t"):
			head = line
		case line == "\t}":
			blocks = append(blocks, canonicalBlock(block))
			block = nil
		default:
			block = append(block, line)
		}
	}
	slices.Sort(tables)
	return strings.Join(append(tables, block...), "\n")
}

// canonicalBlock sorts the elements of a set or map; the rules of a chain stay
// as they are.
func canonicalBlock(lines []string) string {
	i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "\t\telements = {") })
	if i >= 0 {
		all := strings.Join(lines[i:], " ")
		all = strings.TrimSuffix(strings.TrimPrefix(all, "\t\telements = {"), "}")
		elements := strings.Split(all, ",")
		for k := range elements {
			elements[k] = strings.TrimSpace(elements[k])
		}
		slices.Sort(elements)
		lines = append(lines[:i:i], elements...)
	}
	return strings.Join(lines, "\n")
}
