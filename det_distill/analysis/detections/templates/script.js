"use strict";
(function () {
  const choice = document.getElementById("class-choice");
  if (choice) {
    const panels = Array.from(document.querySelectorAll("[data-panel]"));
    const shown = Number(choice.dataset.shown);
    const update = function () {
      panels.forEach(function (panel) {
        const number = Number(panel.dataset.panel);
        const some = choice.value === "gaps" ? number <= shown : number === Number(choice.value);
        panel.hidden = number > 0 && choice.value !== "all" && !some;
      });
    };
    choice.addEventListener("change", update);
    document.getElementById("chooser").hidden = false;
    update();
  }
  document.documentElement.dataset.script = "ran";
})();
