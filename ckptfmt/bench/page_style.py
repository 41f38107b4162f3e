"""How the report of ``ckptfmt bench`` looks: its style sheet, light and dark.

Text has a contrast of 4.5 : 1 or more on its ground. Colours are told apart by those who see no
red or no green, and none is the only sign of anything.
"""

from __future__ import annotations

#: Class of what is drawn, by kind of event.
CLASSES = {
    "verify": "verify", "buffered read": "buffered", "copy": "copy", "read": "read",
    "wait for disk": "disk", "wait for device": "device",
}  # fmt: skip

STYLE = """
:root {
  color-scheme: light dark;
  --ground: #fdfdfb; --text: #1c2126; --dim: #59636e; --rule: #d9dde1; --soft: #f2f4f3;
  --load: #0b62b5; --limit: #b04f08; --peer: #0d7264; --ceiling: #8b96a1;
  --verify: #c07a00; --buffered: #0a8a6a; --read: #2f7fd0; --copy: #a8478f;
  --disk: #b9c1c9; --device: #7c8792;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #15181b; --text: #e4e7ea; --dim: #9da8b3; --rule: #32383e; --soft: #1e2226;
    --load: #58a9f5; --limit: #f09a4a; --peer: #3fc2ae; --ceiling: #77838f;
    --verify: #e5a83c; --buffered: #2fb894; --read: #62aef2; --copy: #d583c0;
    --disk: #454e57; --device: #7f8b97;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 68rem;
  background: var(--ground); color: var(--text);
  font: 15px/1.5 system-ui, "Segoe UI", "Helvetica Neue", "Noto Sans", Arial, sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere;
}
h1 { font-size: 1.75rem; line-height: 1.25; font-weight: 650; letter-spacing: -.012em;
  margin: .3rem 0 .6rem; max-width: 44rem; text-wrap: balance; }
h2 { font-size: 1.15rem; line-height: 1.3; font-weight: 650; margin: 3rem 0 .35rem; }
p { margin: .35rem 0; max-width: 44rem; }
.dim, caption, small { color: var(--dim); }
small { font-size: .82rem; }
code { font: .9em ui-monospace, "SF Mono", "DejaVu Sans Mono", Consolas, monospace; }
.env { background: var(--soft); border-radius: .25rem; padding: .1em .35em; }
.facts { max-width: none; }
caption { text-align: left; padding: 0 0 .6rem; max-width: 44rem; }

.figures { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; margin: 1.6rem 0 0; padding: 1.1rem 0;
  border-block: 1px solid var(--rule); }
.figures div { min-width: 7rem; }
.figures dt { color: var(--dim); font-size: .82rem; }
.figures dd { margin: 0; font-size: 1.45rem; line-height: 1.3; font-weight: 600; }
.figures dd span { font-size: .95rem; font-weight: 400; color: var(--dim); }
.figures .what { display: block; font-size: .82rem; font-weight: 400; color: var(--dim); }

table { border-collapse: collapse; width: 100%; }
th { font-weight: 400; text-align: left; }
svg { display: block; width: 100%; overflow: hidden; }

.bars tr { display: grid; align-items: center; column-gap: 1rem;
  grid-template-columns: minmax(9rem, 21rem) 5.2rem 1fr; }
.bars th, .bars td { padding: 0; }
.bars .name { padding: .28rem 0; line-height: 1.3; }
.bars small { display: block; line-height: 1.3; }
.bars .rate { text-align: right; white-space: nowrap; }
.bars .group { display: block; padding: 1rem 0 .2rem; font-size: .82rem; color: var(--dim);
  border-bottom: 1px solid var(--rule); }
.bars .chart { align-self: stretch; position: relative; min-height: 1.9rem; }
.bars .chart svg { position: absolute; inset: 0; height: 100%; }
.bars .own .name, .bars .own .rate { font-weight: 650; }
.badge { font-size: .78rem; font-weight: 600; color: var(--limit); white-space: nowrap; }
.axis { position: relative; height: 1.5rem; color: var(--dim); font-size: .82rem; }
.axis span { position: absolute; top: .15rem; transform: translateX(-50%); white-space: nowrap; }
.axis span:first-child { transform: none; }
.axis span.end { transform: translateX(-100%); }
.grid { stroke: var(--rule); stroke-width: 1; }
.bar.load { fill: var(--load); } .bar.limit { fill: var(--limit); }
.bar.ceiling { fill: var(--ceiling); } .bar.peer { fill: var(--peer); }
.range { stroke: var(--text); stroke-width: 1.5; }
.run { fill: var(--ground); stroke: var(--text); stroke-width: 1.25; }
.mark { stroke: var(--load); stroke-width: 1.5; stroke-dasharray: 3 3; }
.cut { fill: var(--ground); }

.tracks { display: grid; grid-template-columns: 8.5rem minmax(0, 1fr); gap: .15rem 1rem;
  align-items: center; margin-top: 1rem; }
.tracks .label { font-size: .85rem; line-height: 1.2; }
.tracks .of, .tracks .band { margin-top: .55rem; }
.tracks svg { background: var(--soft); }
.band, .strip { shape-rendering: crispEdges; }
.tall { height: 9rem; } .band { height: 2.4rem; } .strip { height: 1rem; }
.many .band { height: 1.3rem; } .many .strip { height: .7rem; }
.many .label small { font-size: .75rem; line-height: 1; }
.plot { position: relative; }
.plot .level { position: absolute; right: .3rem; font-size: .78rem; line-height: 1.1;
  color: var(--text); background: var(--ground); padding: .1em .3em; border-radius: .2rem; }
.verify { fill: var(--verify); } .buffered { fill: var(--buffered); } .read { fill: var(--read); }
.copy { fill: var(--copy); } .disk { fill: var(--disk); } .device { fill: var(--device); }
.area { fill: var(--load); opacity: .22; }
.line { fill: none; stroke: var(--load); stroke-width: 1.75; vector-effect: non-scaling-stroke; }
.tracks .grid, .ceiling-line { vector-effect: non-scaling-stroke; }
.ceiling-line { stroke: var(--limit); stroke-width: 1.75; stroke-dasharray: 6 4; }
.legend { display: flex; flex-wrap: wrap; gap: .35rem 1.5rem; list-style: none; margin: .8rem 0 0;
  padding: 0; font-size: .9rem; }
.legend svg { display: inline-block; width: .8rem; height: .8rem; margin-right: .45rem;
  vertical-align: -.06rem; border-radius: .15rem; }

.data th, .data td { padding: .42rem 1.2rem .42rem 0; border-bottom: 1px solid var(--rule);
  vertical-align: top; }
.data thead th { color: var(--dim); font-size: .82rem; }
.data .num { white-space: nowrap; }
.data .num svg { width: 6rem; height: .4rem; margin-top: .3rem; background: var(--soft);
  border-radius: .2rem; }
.data tr.best th, .data tr.best .num { font-weight: 600; }
.gain { fill: var(--load); } .loss { fill: var(--ceiling); }
.zero { stroke: var(--dim); stroke-width: 1; }
.pairs th { width: 38%; color: var(--dim); }
.beside { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0 3rem; }
details { margin: .8rem 0; } summary { cursor: pointer; color: var(--dim); }
summary:focus-visible { outline: 2px solid var(--load); outline-offset: 3px; }
li { margin: .25rem 0; }

@media (max-width: 44rem) {
  body { padding: 1.5rem 1rem 3rem; }
  h1 { font-size: 1.4rem; }
  h2 { margin-top: 2.2rem; }
  .figures { gap: .9rem 1.8rem; }
  .bars tr { grid-template-columns: 1fr auto; padding-bottom: .35rem; }
  .bars .chart { grid-column: 1 / -1; }
  .bars .chart { min-height: 1.4rem; }
  .bars .blank { display: none; }
  .tracks { grid-template-columns: minmax(0, 1fr); }
  .tracks .blank { display: none; }
  .tracks .band { margin-top: 0; }
  .tracks svg.tall { height: 7rem; }
  .beside { grid-template-columns: minmax(0, 1fr); }
  .stacked thead { position: absolute; clip-path: inset(50%); width: 1px; height: 1px;
    overflow: hidden; }
  .stacked tr { display: grid; grid-template-columns: 1fr 1fr; gap: .2rem 1rem; padding: .6rem 0;
    border-bottom: 1px solid var(--rule); }
  .stacked th, .stacked td { border: 0; padding: 0; }
  .stacked .wide { grid-column: 1 / -1; }
  .stacked .num::before { content: attr(data-label); display: block; color: var(--dim);
    font-size: .82rem; font-weight: 400; }
}
@media print { body { max-width: none; padding: 0; } details { display: block; } }
"""
