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
