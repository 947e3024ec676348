// A segment plays when it is clicked, and is marked while it is heard. `element` is Gradio's.
element.addEventListener("click", (event) => {
  const segment = event.target.closest("[data-start]");
  const audio = element.querySelector("audio");
  if (!segment || !audio) return;
  audio.currentTime = Number(segment.dataset.start);
  audio.play();
});

element.addEventListener(
  "timeupdate", // which does not rise from the player
  (event) => {
    const at = event.target.currentTime;
    for (const one of element.querySelectorAll("[data-start]")) {
      const isHeard = at >= Number(one.dataset.start) && at < Number(one.dataset.end);
      one.classList.toggle("playing", isHeard);
    }
  },
  true
);
