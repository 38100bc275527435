"""Collector: the pools of this process in a registry of prometheus_client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector as _Collector

from mempool.export.families import families
from mempool.export.own import own_figures

KINDS: dict[str, Any] = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily, "histogram": HistogramMetricFamily}


class Collector(_Collector):
    """All pools of this process, as they are when they are scraped: `REGISTRY.register(mempool.export.Collector())`.

    Needs no page, and costs a pool nothing between two scrapes. Where several processes serve one program (gunicorn),
    prometheus_client adds up no collectors: run `mempool export` beside them, which reads their pages.
    """

    def collect(self) -> Iterator[Metric]:
        """The families of this moment."""
        for family in families(*own_figures()):
            metric: Metric = KINDS[family.kind](family.name, family.help)
            for suffix, labels, value in family.samples:
                metric.add_sample(family.name + suffix, dict(labels), value)
            yield metric

    def describe(self) -> Iterator[Metric]:
        """Nothing: the pools of the moment of registration say nothing of those to come."""
        return iter(())
