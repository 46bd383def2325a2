"""The style sheet of the page, for light and dark mode and for wide and narrow screens. It loads nothing from elsewhere."""

from __future__ import annotations

STYLE = """
:root { --ink:#1c2128; --soft:#5b6470; --page:#ffffff; --card:#f5f6f8; --line:#d9dde3; --good:#137a43; --bad:#b3261e;
  --be:#6b7280; --ce:#b4530a; --sep-coop:#7c3aed; --joint-coop:#0b66c3; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ink:#e6e9ee; --soft:#9aa4b2; --page:#14171c; --card:#1d2128; --line:#39414d;
  --good:#4cc38a; --bad:#ff8a80; --be:#a3acb9; --ce:#f0a35e; --sep-coop:#b79cff; --joint-coop:#6cb2ff; } }
* { box-sizing: border-box; }
body { margin:0 auto; padding:1.25rem; max-width:74rem; background:var(--page); color:var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size:1.5rem; line-height:1.25; margin:.25rem 0 .25rem; overflow-wrap:anywhere; }
h2 { font-size:1.2rem; margin:2.25rem 0 .5rem; }
h3 { font-size:1rem; margin:1.25rem 0 .5rem; }
p { margin:.4rem 0; max-width:90ch; } p.soft { max-width:110ch; }
.soft, figcaption { color:var(--soft); font-size:.875rem; }
ul { padding-left:1.2rem; margin:.4rem 0; } li { overflow-wrap:anywhere; }
.tiles { display:grid; grid-template-columns:repeat(auto-fit,minmax(15rem,1fr)); gap:.75rem; margin:1rem 0; }
.tile { background:var(--card); border-radius:.6rem; padding:.8rem 1rem; }
.tile b { display:block; font-size:1.6rem; line-height:1.3; font-variant-numeric:tabular-nums; }
.scroll { overflow-x:auto; margin:.5rem 0; }
table { border-collapse:collapse; font-size:.875rem; font-variant-numeric:tabular-nums; width:100%; }
th, td { padding:.35rem .6rem; text-align:right; white-space:nowrap; border-bottom:1px solid var(--line); }
th { color:var(--soft); font-weight:600; vertical-align:bottom; }
th.name, td.name { text-align:left; }
td.name:first-child, th.name:first-child { position:sticky; left:0; background:var(--page); }
.plots { display:grid; grid-template-columns:repeat(auto-fit,minmax(min(26rem,100%),1fr)); gap:1rem; }
figure { margin:0; background:var(--card); border-radius:.6rem; padding:.8rem; }
figure h3 { margin:0 0 .4rem; } figure > svg { width:100%; height:auto; display:block; }
.keys { display:flex; flex-wrap:wrap; gap:.1rem 1rem; list-style:none; padding:0; margin:.3rem 0 0; font-size:.8rem; }
.keys svg { width:1.75rem; height:.5rem; margin-right:.4rem; stroke-width:2; vertical-align:middle; }
.case { background:var(--card); border-radius:.6rem; padding:.8rem 1rem; margin:.75rem 0; }
.case .asked { font-weight:600; overflow-wrap:anywhere; } .case .query { display:flex; gap:.75rem; align-items:center; }
.up { color:var(--good); } .down { color:var(--bad); }
.sides { display:grid; grid-template-columns:repeat(auto-fit,minmax(min(26rem,100%),1fr)); gap:.75rem 1.5rem; margin-top:.5rem; }
.row { display:grid; grid-template-columns:repeat(5,1fr); gap:.4rem; list-style:none; padding:0; margin:.25rem 0; }
.row li, .lines li { font-size:.75rem; color:var(--soft); font-variant-numeric:tabular-nums; text-align:center; }
.thumb { display:block; width:100%; aspect-ratio:1; border-radius:.35rem; border:3px solid transparent;
  background:#fff center/contain no-repeat; background-clip:padding-box;
  print-color-adjust:exact; -webkit-print-color-adjust:exact; }
.query .thumb { width:5.5rem; flex:none; }
.right .thumb { border-color:var(--good); } .right { color:var(--good) !important; font-weight:600; }
.lines { padding-left:1.4rem; margin:.25rem 0; } .lines li { text-align:left; font-size:.85rem; margin:.15rem 0; }
details { margin:.75rem 0; } summary { cursor:pointer; }
@media (max-width:30rem) { body { padding:.8rem; } .tile b { font-size:1.35rem; } }
"""
