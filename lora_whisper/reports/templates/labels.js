// What was decided is kept by the browser, and shown once it is: localStorage forgot it in one of
// twenty pages that were loaded again at once, of a browser on a busy machine.
const opened = new Promise((resolve, reject) => {
  const opening = indexedDB.open("lora-whisper labels");
  opening.onupgradeneeded = () => opening.result.createObjectStore("decisions");
  opening.onsuccess = () => resolve(opening.result);
  opening.onerror = () => reject(opening.error);
});
const stored = (mode, ask) => opened.then(database => new Promise((resolve, reject) => {
  const transaction = database.transaction("decisions", mode, {durability: "strict"});
  const asked = ask(transaction.objectStore("decisions"));
  transaction.oncomplete = () => resolve(asked.result);
  transaction.onabort = () => reject(transaction.error);
})).catch(() => undefined);  // a browser that keeps nothing: the saved file is left
const list = document.getElementById("findings");
if (list) {
  const all = [...list.children], key = list.dataset.page;
  const tally = document.getElementById("tally"), kinds = document.getElementById("kinds");
  const verdicts = {accept: "wrong", reject: "right"};
  const kept = {};
  let at = -1;
  const name = one => one.dataset.kind + " " + one.dataset.line;
  const show = one => {
    one.querySelector(".verdict").textContent = verdicts[one.dataset.decision] || "";
    const decided = all.filter(each => each.dataset.decision).length;
    tally.textContent = decided + " of " + all.length + " decided";
  };
  const decide = (one, decision) => {
    one.dataset.decision = decision;
    kept[name(one)] = decision;
    stored("readwrite", decisions => decisions.put(kept, key)).then(() => show(one));
  };
  const shown = () => all.filter(one => !one.hidden);
  const go = step => {
    const some = shown(), place = some.indexOf(all[at]);
    const next = some[Math.min(Math.max(place + step, 0), some.length - 1)];
    if (!next) return;
    for (const one of all) one.classList.toggle("chosen", one === next);
    at = all.indexOf(next);
    next.focus({preventScroll: true});
    next.scrollIntoView({block: "center"});
  };
  const play = () => {
    const audio = at < 0 ? null : all[at].querySelector("audio");
    if (audio) audio.paused ? audio.play() : audio.pause();
  };
  const decideHere = decision => { if (at >= 0) { decide(all[at], decision); if (decision) go(1); } };
  const keys = {
    j: () => go(1), k: () => go(-1), a: () => decideHere("accept"), r: () => decideHere("reject"),
    u: () => decideHere(""), " ": play,
  };
  document.addEventListener("keydown", event => {
    const typing = /^(INPUT|SELECT|TEXTAREA|BUTTON|AUDIO|SUMMARY)$/.test(event.target.tagName);
    if (typing || event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
  for (const one of all) {
    one.querySelector(".buttons").hidden = false;
    one.addEventListener("click", event => {
      at = all.indexOf(one);
      for (const each of all) each.classList.toggle("chosen", each === one);
      const to = event.target.dataset.to;
      if (to) decide(one, one.dataset.decision === to ? "" : to);
    });
    show(one);
  }
  kinds.addEventListener("change", () => {
    for (const one of all) one.hidden = kinds.value !== "" && one.dataset.kind !== kinds.value;
  });
  document.getElementById("save").addEventListener("click", () => {
    const lines = all.filter(one => one.dataset.decision).map(one =>
      JSON.stringify({...JSON.parse(one.dataset.line), decision: one.dataset.decision}) + "\n");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(lines, {type: "application/jsonl"}));
    link.download = "decisions.jsonl";
    link.click();
    URL.revokeObjectURL(link.href);
  });
  stored("readonly", decisions => decisions.get(key)).then(before => {
    Object.assign(kept, {...before, ...kept});
    for (const one of all) {
      if (name(one) in kept) one.dataset.decision = kept[name(one)];
      show(one);
    }
    document.getElementById("decide").hidden = false;
  });
}
document.addEventListener("play", ({target}) => {
  for (const one of document.querySelectorAll("audio")) if (one !== target) one.pause();
}, true);
