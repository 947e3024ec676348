for (const head of document.querySelectorAll(".sortable th")) {
  const button = document.createElement("button");
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const up = head.ariaSort !== "ascending", place = head.cellIndex;
    for (const other of head.parentNode.cells) other.ariaSort = null;
    head.ariaSort = up ? "ascending" : "descending";
    const body = head.closest("table").tBodies[0];
    const value = row => row.cells[place].dataset.order ?? row.cells[place].textContent.trim();
    const isNothing = text => text === "" || text === "–";
    const compare = (a, b) => {
      const [one, two] = [value(a), value(b)];
      if (isNothing(one) || isNothing(two)) return isNothing(one) - isNothing(two);
      if (isNaN(one) || isNaN(two)) {
        const words = isNaN(one) - isNaN(two) || one.localeCompare(two);
        return isNaN(one) === isNaN(two) && !up ? -words : words;
      }
      return up ? one - two : two - one;
    };
    body.append(...[...body.rows].sort(compare));
  });
}
