package main

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
)

// kea prepares Debian's Kea with the same reservations, found by the MAC of
// option 79, and with its usual store of leases, a table in memory and a file
// that they are appended to; the file is in memory too, so that no disk is
// measured. Each client has its reservation, so the subnet has no pools.
func kea(dir string, at netip.Addr, reservations int) (program, error) {
	path := filepath.Join(dir, "kea.json")
	err := write(path, func(w *bufio.Writer) {
		fmt.Fprintf(w, `{"Dhcp6": {
"interfaces-config": {"interfaces": ["%s/%s"]},
"server-id": {"type": "LL", "htype": 1, "identifier": "%x", "persist": false},
"lease-database": {"type": "memfile", "name": "%s", "lfc-interval": 0},
"multi-threading": {"enable-multi-threading": false},
"mac-sources": ["client-link-addr-option"],
"host-reservation-identifiers": ["hw-address"],
"preferred-lifetime": %d, "valid-lifetime": %d,
"option-data": [{"name": "dns-servers", "data": "%s"}],
"loggers": [{"name": "kea-dhcp6", "severity": "ERROR", "output_options": [{"output": "stderr"}]}],
"subnet6": [{"subnet": "%s", "reservations": [
`, serverDevice, at, serverMAC[:], filepath.Join(dir, "kea.leases"), preferredLifetime, validLifetime, dnsServer, linkPrefix)
		for i := range uint64(reservations) {
			separator := ","
			if i == uint64(reservations)-1 {
				separator = ""
			}
			fmt.Fprintf(w, `{"hw-address":"%s","ip-addresses":["%s"],"prefixes":["%s"]}%s`+"\n", clientMAC(i), clientAddr(i), clientPrefix(i), separator)
		}
		fmt.Fprint(w, "]}]}}\n")
	})
	return program{
		name:  "kea",
		args:  []string{"kea-dhcp6", "-c", path},
		env:   []string{"KEA_PIDFILE_DIR=" + dir, "KEA_LOCKFILE_DIR=" + dir},
		right: exact,
	}, err
}

// coredhcp prepares Debian's CoreDHCP with the same addresses. It cannot reserve
// prefixes: its prefix plugin gives each client one of the pool, and remembers
// it.
//
// It errs: the version of Debian 12 gives a packet's buffer back before it has
// answered, while the message that it made of it still points there, so that the
// next packet's DUID can come into the answer.
func coredhcp(dir string, at netip.Addr, reservations int) (program, error) {
	path, leases := filepath.Join(dir, "coredhcp.yml"), filepath.Join(dir, "coredhcp.leases")
	err := write(leases, func(w *bufio.Writer) {
		for i := range uint64(reservations) {
			fmt.Fprintln(w, clientMAC(i), clientAddr(i))
		}
	})
	if err == nil {
		err = write(path, func(w *bufio.Writer) {
			fmt.Fprintf(w, "server6:\n  listen: [\"[%s]:547\"]\n  plugins:\n", at)
			fmt.Fprintf(w, "    - server_id: LL %s\n    - file: %s\n    - dns: %s\n    - prefix: %s %d\n", serverMAC, leases, dnsServer, pool.Prefix, pool.DelegatedLength)
		})
	}
	return program{
		name:  "coredhcp",
		args:  []string{"coredhcp", "-c", path, "-L", "error"},
		right: pooled,
		errs:  true,
	}, err
}

// write makes a file.
func write(path string, f func(*bufio.Writer)) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	w := bufio.NewWriter(file)
	f(w)
	return w.Flush()
}
