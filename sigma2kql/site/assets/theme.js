// Before the first paint: that scripts run, and the theme that the reader chose.
document.documentElement.classList.add("js");
try {
  const chosen = localStorage.getItem("sigma2kql-theme");
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
} catch {
  // storage may be closed to pages from a disk
}
