"""The workflow's graph as inline SVG: layers from top to bottom, few crossings, edges around the nodes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from itertools import pairwise

from markupsafe import Markup

from avion_core.report.plan import Dag, ReportError

CHARACTER_PX = 7.0
NODE_HEIGHT_PX = 30
TRACK_WIDTH_PX = 6
LAYER_GAP_PX = 30
SIDE_GAP_PX = 22
MARGIN_PX = 8
LOOP_PX = 24
"""Width of a loop from a node to itself."""
SWEEPS = 8
"""Passes when ordering the layers."""
TARGETS = ("all",)
"""Rules that only name targets."""


@dataclass(frozen=True)
class _Box:
    """Centre and width of a node, or of the invisible point of an edge."""

    x: float
    y: float
    width: float
    height: float


def parse_rulegraph(dot: str) -> Dag:
    """The nodes and edges of what `snakemake --rulegraph` prints.

    Rules that only name targets are left out. Raises ReportError when there is no rule.
    """
    labels = dict(re.findall(r'^\s*(\w+)\s*\[\s*label\s*=\s*"([^"]+)"', dot, flags=re.MULTILINE))
    if not labels:
        raise ReportError("no rule in the output of `snakemake --rulegraph`; does `snakemake -n` work?")
    shown = {number: label for number, label in labels.items() if label not in TARGETS}
    arrows = re.findall(r"^\s*(\w+)\s*->\s*(\w+)", dot, flags=re.MULTILINE)
    edges = [(shown[first], shown[second]) for first, second in arrows if first in shown and second in shown]
    return Dag(nodes=tuple(dict.fromkeys(shown.values())), edges=tuple(edges))


def dag_svg(dag: Dag) -> Markup:
    """Draw the graph at its natural size (the page puts it into a box that scrolls).

    Edges implied by others (a → c beside a → b → c) are left out. Rules may form cycles although jobs do
    not: an edge from a node to itself is a loop, and one that closes a longer cycle points upwards. Raises
    ReportError for an edge whose end is not a node.
    """
    edges = list(dict.fromkeys(dag.edges))
    _check(dag.nodes, edges)
    loops = [first for first, second in edges if first == second]
    proper = [(first, second) for first, second in edges if first != second]
    backward = _backward(dag.nodes, proper)
    forward = [edge for edge in proper if edge not in backward]
    turned = [(second, first) for first, second in proper if (first, second) in backward]
    drawn = _without_implied(forward)
    routes, layers = _routes(dag.nodes, drawn + turned, _layers(dag.nodes, forward + turned))
    _order(layers, routes)
    boxes, width, height = _place(layers, set(dag.nodes))
    parts = [_edge(route, boxes, reverse=place >= len(drawn)) for place, route in enumerate(routes)]
    parts += [_loop(boxes[name]) for name in loops]
    parts += [_node(name, boxes[name]) for name in dag.nodes]
    label = escape("Graph of the workflow: " + ", ".join(f"{a} feeds {b}" for a, b in proper), quote=True)
    return Markup(
        f'<svg class="dag" role="img" aria-label="{label}" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}">'
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto-start-reverse"><path class="head" d="M0 0 L8 4 L0 8 z"/></marker></defs>'
        + "".join(parts)
        + "</svg>"
    )


def _check(nodes: Sequence[str], edges: Sequence[tuple[str, str]]) -> None:
    for edge in edges:
        for name in edge:
            if name not in nodes:
                raise ReportError(f"plan: dag edge {list(edge)} names '{name}', which is not among its nodes")


def _backward(nodes: Sequence[str], edges: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
    """Edges that close a cycle, found by depth-first search from the sources."""
    targets = defaultdict(list)
    for first, second in edges:
        targets[first].append(second)
    fed = {second for _, second in edges}
    backward: set[tuple[str, str]] = set()
    done: set[str] = set()

    def walk(name: str, above: tuple[str, ...]) -> None:
        for target in targets[name]:
            if target in above:
                backward.add((name, target))
            elif target not in done:
                walk(target, (*above, target))
        done.add(name)

    for name in sorted(nodes, key=lambda name: name in fed):
        if name not in done:
            walk(name, (name,))
    return backward


def _layers(nodes: Sequence[str], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Longest path from a source, then each source moved next to its targets. `edges` is acyclic."""
    layer = dict.fromkeys(nodes, 0)
    changed = True
    while changed:
        changed = False
        for first, second in edges:
            if layer[second] <= layer[first]:
                layer[second] = layer[first] + 1
                changed = True
    fed = {second for _, second in edges}
    for name in nodes:
        targets = [layer[second] for first, second in edges if first == name]
        if name not in fed and targets:
            layer[name] = min(targets) - 1
    return layer


def _without_implied(edges: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Transitive reduction of an acyclic graph."""
    targets = defaultdict(set)
    for first, second in edges:
        targets[first].add(second)

    @cache
    def below(name: str) -> frozenset[str]:
        return frozenset(targets[name]).union(*(below(target) for target in targets[name]))

    return [
        (first, second)
        for first, second in edges
        if not any(second in below(other) for other in targets[first] if other != second)
    ]


def _routes(
    nodes: Sequence[str], edges: Sequence[tuple[str, str]], layer_of: dict[str, int]
) -> tuple[list[list[str]], list[list[str]]]:
    """Each edge as a chain with an invisible point in every layer that it crosses; the names of each layer.

    Edges from the same node share points, so they run as one line until they fork.
    """
    layers: list[list[str]] = [[] for _ in range(max(layer_of.values(), default=0) + 1)]
    for name in nodes:
        layers[layer_of[name]].append(name)
    routes = []
    for first, second in edges:
        chain = [first]
        for level in range(layer_of[first] + 1, layer_of[second]):
            point = f"\0{first}\0{level}"
            if point not in layers[level]:
                layers[level].append(point)
            chain.append(point)
        routes.append([*chain, second])
    return routes, layers


def _order(layers: list[list[str]], routes: list[list[str]]) -> None:
    """Sort each layer by the mean place of its neighbours, forwards and backwards (barycentre method)."""
    before, after = defaultdict(list), defaultdict(list)
    for route in routes:
        for first, second in pairwise(route):
            after[first].append(second)
            before[second].append(first)
    for sweep in range(SWEEPS):
        forwards = sweep % 2 == 0
        neighbours = before if forwards else after
        place = {name: index - len(layer) / 2 for layer in layers for index, name in enumerate(layer)}
        for layer in layers if forwards else reversed(layers):
            mean = {
                name: sum(place[other] for other in neighbours[name]) / len(neighbours[name])
                if neighbours[name]
                else place[name]
                for name in layer
            }
            layer.sort(key=mean.__getitem__)
            place.update({name: index - len(layer) / 2 for index, name in enumerate(layer)})


def _place(layers: list[list[str]], real: set[str]) -> tuple[dict[str, _Box], float, float]:
    """A box for every node and point, with layers centred; total width and height."""
    widths = [
        [len(name) * CHARACTER_PX + 18 if name in real else TRACK_WIDTH_PX for name in layer]
        for layer in layers
    ]
    used = [sum(row) + (len(row) - 1) * SIDE_GAP_PX for row in widths]
    width = max(used, default=0) + 2 * (MARGIN_PX + LOOP_PX)
    boxes: dict[str, _Box] = {}
    y = MARGIN_PX + NODE_HEIGHT_PX / 2
    for layer, row, total in zip(layers, widths, used, strict=True):
        x = (width - total) / 2
        for name, own in zip(layer, row, strict=True):
            boxes[name] = _Box(x + own / 2, y, own, NODE_HEIGHT_PX)
            x += own + SIDE_GAP_PX
        y += NODE_HEIGHT_PX + LAYER_GAP_PX
    return boxes, width, y - LAYER_GAP_PX - NODE_HEIGHT_PX / 2 + MARGIN_PX


def _edge(route: list[str], boxes: dict[str, _Box], *, reverse: bool) -> str:
    start = boxes[route[0]]
    x, y = start.x, start.y + start.height / 2
    path = f"M{x:.1f} {y:.1f}"
    for name in route[1:]:
        box = boxes[name]
        top = box.y - box.height / 2
        bend = (y + top) / 2
        path += f" C{x:.1f} {bend:.1f} {box.x:.1f} {bend:.1f} {box.x:.1f} {top:.1f}"
        x, y = box.x, top
        if name != route[-1]:
            y = box.y + box.height / 2
            path += f" L{x:.1f} {y:.1f}"
    end_of_arrow = "start" if reverse else "end"
    return f'<path class="edge" d="{path}" marker-{end_of_arrow}="url(#arrow)"/>'


def _loop(box: _Box) -> str:
    right = box.x + box.width / 2
    top, bottom = box.y - box.height / 4, box.y + box.height / 4
    bulge = right + LOOP_PX
    path = f"M{right:.1f} {top:.1f} C{bulge:.1f} {top:.1f} {bulge:.1f} {bottom:.1f} {right:.1f} {bottom:.1f}"
    return f'<path class="edge" d="{path}" marker-end="url(#arrow)"/>'


def _node(name: str, box: _Box) -> str:
    return (
        f'<rect class="node" x="{box.x - box.width / 2:.1f}" y="{box.y - box.height / 2:.1f}" '
        f'width="{box.width:.1f}" height="{box.height}" rx="6"/>'
        f'<text x="{box.x:.1f}" y="{box.y + 4:.1f}" text-anchor="middle">{escape(name)}</text>'
    )
