// Before anything is painted: the theme that was chosen here, if one was.
try {
  const theme = localStorage.getItem("semel-theme");
  if (theme) document.documentElement.dataset.theme = theme;
} catch {
  // Storage may be forbidden; then it is the system's.
}
