"""The frame, the look and the script of `evaluation.html`, which is whole without its script."""

# What it adds: another order, a search, and that one player stops when the next one starts.
SCRIPT = """
for (const bar of document.querySelectorAll(".controls")) {
  const list = document.getElementById(bar.dataset.list), all = [...list.children];
  const [order, words] = bar.querySelectorAll("select, input"), count = bar.querySelector("output");
  const texts = new Map(all.map(one => [one, one.textContent.toLowerCase()]));
  const sort = () => list.append(...all.sort((a, b) =>
    b.dataset[order.value] - a.dataset[order.value] || b.dataset.place - a.dataset.place));
  const filter = () => {
    const wanted = words.value.trim().toLowerCase();
    for (const one of all) one.hidden = !texts.get(one).includes(wanted);
    count.textContent = all.filter(one => !one.hidden).length + " shown";
  };
  order.addEventListener("change", sort);
  words.addEventListener("input", filter);
  filter();
  bar.hidden = false;
}
document.addEventListener("play", ({target}) => {
  for (const one of document.querySelectorAll("audio")) if (one !== target) one.pause();
}, true);
"""

TEMPLATE = """{% extends "page.html" %}
{% from "parts.html" import key %}
{% from "marks.html" import marked %}
{% block title %}{{ results.name }}: evaluation{% endblock %}
{% block head %}
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; media-src data:;
 style-src 'unsafe-inline'; script-src 'sha256-{{ script_hash }}'">
{% endblock %}
{% block style %}
.verdicts { margin: 1rem 0 0; padding: 0; list-style: none; }
.verdicts li { padding: .4rem .9rem; margin: .4rem 0; background: var(--tint);
  border-left: .3rem solid var(--grey); border-radius: .2rem; overflow-wrap: anywhere; }
.verdicts .better { border-color: var(--green); }
.verdicts .worse { border-color: var(--bad); }
.key dt { max-width: 22rem; overflow-wrap: anywhere; }
nav { margin: 1.25rem 0 0; display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; }
a { color: var(--blue); }
td small { display: block; color: var(--soft); font-size: .8rem; }
.section { margin-bottom: 1.75rem; }
.section .plots { margin: .9rem 0; }
.section th, .section td { padding-right: 1.1rem; }
.section th:last-child, .section td:last-child { padding-right: 0; }
.section td:first-child { position: sticky; left: 0;
  background: var(--page); background-clip: padding-box; }
.section th, .section td:first-child { white-space: normal; overflow-wrap: break-word; }
.section th { vertical-align: bottom; }
.plots table { min-width: 100%; }
.verdicts b { unicode-bidi: isolate; }
.verdicts span { white-space: nowrap; }
.remark .note { padding: 0; border: 0; }
.mistakes { display: flex; flex-wrap: wrap; gap: .5rem 3rem; padding: .25rem .9rem .9rem; }
.mistakes table { min-width: 0; }
.controls { display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: center; margin: .8rem 0; }
.controls select, .controls input { font: inherit; max-width: 100%; padding: .25rem .5rem;
  color: inherit; background: var(--page); border: 1px solid var(--line); border-radius: .3rem; }
[hidden] { display: none !important; }
.sample { border-top: 1px solid var(--line); }
.sample:nth-of-type(odd) { background: none; }
.texts { grid-template-columns: 12rem minmax(0, 1fr); }
.texts .said { font-weight: 600; }
audio { height: 2.2rem; width: 100%; max-width: 24rem; margin-top: .3rem; }
@media print {
  nav, audio, .controls { display: none !important; }
  .wide { overflow: visible; }
  table { font-size: 8.5pt; }
  th, td small { font-size: 7.5pt; }
  .section td:first-child { position: static; }
  .section th, .section td { padding-right: .7rem; }
  .plots > .wide { grid-column: 1 / -1; }
  tr { break-inside: avoid; }
}
{% endblock %}
{% macro grid(table) %}
<div class="wide"><table>
<thead><tr>
{%- for heading in table.headings %}
<th{% if loop.index0 not in table.texts %} class="number"{% endif %}><bdi>{{ heading }}</bdi></th>
{%- endfor %}</tr></thead>
<tbody>
{% for row in table.rows %}
<tr>
{%- for cell in row %}
<td{% if loop.index0 not in table.texts %} class="number"{% endif %}>
{%- if cell is string %}<bdi>{{ cell|name if loop.first else cell }}</bdi>
{%- else %}{{ cell[0] }}{% if cell[1] %}<small dir="auto">{{ cell[1] }}</small>{% endif %}
{%- endif %}</td>
{%- endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endmacro %}
{% macro section(one) %}
<section class="section">
{% if one.title %}
<h3>{{ one.title }}</h3>
{% endif %}
{% if one.below %}
<p class="soft">{{ one.below }}</p>
{% endif %}
{% if one.plots %}
<div class="plots">
{% for plot in one.plots if plot %}
<figure>{{ plot|safe }}</figure>
{% endfor %}
{{ grid(one) if one.is_narrow }}
</div>
{% endif %}
{{ grid(one) if one.rows and not one.is_narrow }}
</section>
{% endmacro %}
{% block body %}
<h1>{{ results.name }}</h1>
<p class="soft">{{ about }}</p>

{% if verdicts %}
<ul class="verdicts">
{% for one in verdicts %}
<li class="{{ one.class }}"><b>{{ one.model }}</b> on <b>{{ one.set }}</b>{{ one.role }}:
{{ one.text }} <span class="soft">{{ one.points }}</span></li>
{% endfor %}
</ul>
{% endif %}

{{ key(key_figures) }}
{% if remarks %}
<div class="remark">
{% for kind, text in remarks %}
<p class="{{ kind }}">{{ text[0]|upper }}{{ text[1:] }}.</p>
{% endfor %}
</div>
{% endif %}

<nav>
{% for title in sections %}
<a href="#{{ title|lower|replace(" ", "-") }}">{{ title }}</a>
{% endfor %}
{% if heard %}
<a href="#heard">What was heard</a>
{% endif %}
<a href="#made">How it was made</a>
</nav>

{% for title, parts in sections.items() %}
<h2 id="{{ title|lower|replace(" ", "-") }}">{{ title }}</h2>
{% for one in parts %}
{% if title == mistakes %}
<details{% if loop.first %} open{% endif %}><summary>{{ one.model }} on {{ one.set }}</summary>
<div class="mistakes">
{% for table in one.grids %}
{{ grid(table) }}
{% endfor %}
</div></details>
{% else %}
{{ section(one) }}
{% endif %}
{% endfor %}
{% if title == "Scores" %}
<p class="soft">{{ method }}</p>
{% endif %}
{% if title == "Hallucination" and examples %}
<details><summary>Examples</summary>
<ul class="rows">
{% for one in examples %}
<li><div>{{ one.why }}<br><span class="file">{{ one.where }}</span></div>
<div dir="auto">{{ one.text }}</div></li>
{% endfor %}
</ul></details>
{% endif %}
{% endfor %}

{% if heard %}
<h2 id="heard">What was heard</h2>
<p class="soft">The reference as it is written; what the models heard, as it is scored.
<mark>another word</mark> <ins>a word too many</ins> <del>a word missed</del></p>
{% for set in heard %}
{% set number = loop.index %}
<h3>{{ set.name }}</h3>
<p class="soft">
{% if set.shown|length < set.count %}
The {{ "{:,}".format(set.shown|length) }} worst of {{ "{:,}".format(set.count) }} utterances; all of
them are in evaluation/*/{{ set.name }}/hypotheses.jsonl.
{% else %}
All {{ "{:,}".format(set.count) }} utterances.
{% endif %}
Worst of {{ set.last }} first: by errors over the square root of the words, so that neither long
utterances nor those of a word come first alone.</p>
<div class="controls" data-list="set-{{ number }}" hidden>
<label>Order <select>
{% for model in set.models|reverse %}
<option value="model{{ set.models.index(model) }}">worst of {{ model }}</option>
{% endfor %}
{% if set.against %}
<option value="brought">more errors than {{ set.against }}</option>
<option value="taken">fewer errors than {{ set.against }}</option>
{% endif %}
<option value="place">as in the set</option>
</select></label>
<label>Find <input type="search" placeholder="word, speaker, row"></label>
<output class="soft"></output>
</div>
<div id="set-{{ number }}">
{% for one in set.shown %}
<article class="sample"{% for key, value in one.orders.items() %} data-{{ key }}="{{ value }}"
{%- endfor %}>
<dl class="texts">
<dt class="file">{{ one.row }}</dt>
<dd class="said" lang="{{ one.language }}" dir="auto">{{ one.reference }}</dd>
{% if one.bad_audio %}
<dt>not heard</dt><dd>{{ one.bad_audio }}</dd>
{% endif %}
{% for line in one.heard %}
<dt>{{ line.models }}, {{ line.errors }} wrong</dt>
<dd lang="{{ one.language }}" dir="auto">
{%- if line.stretches %}{{ marked(line.stretches, one.space) }}
{%- else %}<span class="soft">nothing</span>{% endif %}</dd>
{% endfor %}
{% if one.about or one.sound %}
<dt></dt><dd class="file">{{ one.about }}
{% if one.sound %}
<audio controls preload="none" src="{{ one.sound }}"></audio>
{% endif %}
</dd>
{% endif %}
</dl>
</article>
{% endfor %}
</div>
{% endfor %}
{% endif %}

<h2 id="made">How it was made</h2>
<details><summary>Markdown for a model card</summary><pre>{{ markdown }}</pre></details>
{% for title, facts in facts.items() %}
<h3>{{ title }}</h3>
<dl class="facts">
{% for name, fact in facts.items() %}
<dt>{{ name }}</dt><dd>{{ fact }}</dd>
{% endfor %}
</dl>
{% endfor %}
<script>{{ script|safe }}</script>
{% endblock %}
"""
