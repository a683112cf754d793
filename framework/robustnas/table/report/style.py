"""How the page looks: on paper and phones, in the light and in the dark.

Colours are told apart by people who do not see all of them (the hues are those of Okabe and Ito 2008), and none carries
anything alone: lines have dashes and markers of their own.
"""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --card: #f6f7f9; --ink: #1b1f24; --soft: #57606a; --rule: #d5dae0; --link: #0b5cad;
    --heat: #0b5cad;
  --warn: #8a4b00;
  --s0: #0068b0; --s1: #c24a00; --s2: #00795a; --s3: #a8437f; --s4: #836300; --s5: #1c1f24; --s6: #4a8fc7;
    --s7: #7a5bc4;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --card: #1d2127; --ink: #e8ebef; --soft: #a2abb5; --rule: #3a424c; --link: #7db8f2;
    --heat: #7db8f2;
    --warn: #f0b463;
    --s0: #58aef0; --s1: #f58b4c; --s2: #3fc79c; --s3: #e596c4; --s4: #e0c040; --s5: #f2f4f7; --s6: #9fd3ff;
    --s7: #b9a3f5;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
header, main, footer { max-width: 1240px; margin: 0 auto; padding: 0 16px; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1.5rem 0 0.3rem; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 0.6rem; padding-top: 0.6rem; border-top: 1px solid var(--rule); }
h3 { font-size: 1.05rem; margin: 1.6rem 0 0.4rem; }
p { margin: 0.4rem 0; max-width: 75ch; }
a { color: var(--link); }
nav ul { display: flex; flex-wrap: wrap; gap: 0.2rem 1.1rem; list-style: none; margin: 0.8rem 0; padding: 0; }
nav a { display: inline-block; padding: 0.25rem 0; }
.soft, .drawing .soft { color: var(--soft); }
.scroll { overflow-x: auto; border: 1px solid var(--rule); border-radius: 6px; margin: 0.6rem 0; }
.scroll:focus-visible { outline: 2px solid var(--link); }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
caption { caption-side: top; text-align: left; color: var(--soft); padding: 0.5rem 0.7rem; }
th, td { padding: 0.35rem 0.7rem; border-top: 1px solid var(--rule); text-align: left; vertical-align: top; }
td, thead th { white-space: nowrap; overflow-wrap: normal; }
thead th { border-top: 0; color: var(--soft); font-weight: 600; }
tbody th { white-space: nowrap; font-weight: 600; overflow-wrap: normal; }
.scroll thead th:first-child, .scroll tbody th { position: sticky; left: 0; background: var(--page); }
.wrap { width: auto; }
.wrap td { white-space: normal; overflow-wrap: anywhere; }
ul.notes { padding-left: 1.1rem; font-size: 0.9rem; color: var(--soft); max-width: 100ch; }
ul.warnings { padding-left: 1.1rem; color: var(--warn); max-width: 100ch; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 350px), 1fr)); gap: 16px; }
figure { margin: 0; align-self: start; background: var(--card); border: 1px solid var(--rule);
    border-radius: 6px; padding: 8px; min-width: 0; }
figcaption { font-size: 0.95rem; font-weight: 600; }
figure p { font-size: 0.85rem; color: var(--soft); }
.examples figcaption { font-size: 0.85rem; font-weight: 400; }
.examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 240px), 1fr)); gap: 12px; }
@media (max-width: 560px) {
  .examples { grid-template-columns: 1fr 1fr; gap: 8px; }
  .examples .soft { display: none; }
  .scroll tbody th { white-space: normal; min-width: 7rem; max-width: 8rem; overflow-wrap: anywhere; }
}
.cells { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 800px), 1fr)); gap: 16px; }
.cell { overflow-x: auto; }
.cell > svg { display: block; margin: 0 auto; }
svg.drawing { display: block; width: 100%; height: auto; max-width: 620px; margin: 0 auto; color: var(--ink); }
.drawing text { font: 12px system-ui, sans-serif; fill: currentColor; }
.drawing .small { font-size: 10px; }
.drawing image { image-rendering: pixelated; }
.drawing .grid { stroke: var(--rule); fill: none; }
.drawing .frame { stroke: var(--soft); fill: none; }
.drawing .line { stroke: currentColor; fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.drawing .mark { fill: currentColor; stroke: var(--card); stroke-width: 0.8; }
.drawing .heat { fill: var(--heat); }
.none { color: var(--soft); }
.s0 { color: var(--s0); } .s1 { color: var(--s1); } .s2 { color: var(--s2); } .s3 { color: var(--s3); }
.s4 { color: var(--s4); } .s5 { color: var(--s5); } .s6 { color: var(--s6); } .s7 { color: var(--s7); }
pre { overflow-x: auto; background: var(--card); border: 1px solid var(--rule); border-radius: 6px; padding: 10px;
  font: 13px/1.45 ui-monospace, Consolas, monospace; max-height: 70vh; }
code { font: 0.9em ui-monospace, Consolas, monospace; }
summary { cursor: pointer; padding: 0.3rem 0; }
footer { color: var(--soft); font-size: 0.85rem; margin-top: 3rem; padding-bottom: 2rem; }
@media print { .scroll, pre { overflow: visible; max-height: none; } pre { white-space: pre-wrap; } }
"""
