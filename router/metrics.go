package router

import "github.com/prometheus/client_golang/prometheus"

// metrics are the router's counters. They count whether anyone asks or not.
type metrics struct {
	relayed  *prometheus.CounterVec // by message type
	replied  *prometheus.CounterVec // by message type
	dropped  *prometheus.CounterVec // by reason
	routes   prometheus.Gauge
	refused  prometheus.Counter
	unsaved  prometheus.Counter
	revision prometheus.Gauge
}

func newMetrics() metrics {
	return metrics{
		relayed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sixacre_router_relayed_total",
			Help: "Client messages relayed to the servers, by type.",
		}, []string{"type"}),
		replied: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sixacre_router_replied_total",
			Help: "Server messages passed on to clients, by type.",
		}, []string{"type"}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sixacre_router_dropped_total",
			Help: "Messages that went no further and delegations that got no route, by reason.",
		}, []string{"reason"}),
		routes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sixacre_router_routes",
			Help: "Routes to delegated prefixes in the kernel.",
		}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sixacre_router_route_errors_total",
			Help: "Changes of a route that the kernel refused; each is tried again.",
		}),
		unsaved: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sixacre_router_state_errors_total",
			Help: "Changes that could not be written to the state directory.",
		}),
		revision: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sixacre_router_view_revision",
			Help: "Store revision of the view that the routes show; 0 without a server.",
		}),
	}
}

// Collectors returns the router's metrics for a registry.
func (r *Router) Collectors() []prometheus.Collector {
	m := r.metrics
	return []prometheus.Collector{m.relayed, m.replied, m.dropped, m.routes, m.refused, m.unsaved, m.revision}
}
