// The dashboard: one page, which asks the admin listener that served it.

import { render } from "preact";
import "uplot/dist/uPlot.min.css";
import "./styles/base.css";
import "./styles/layout.css";
import "./styles/parts.css";
import "./styles/record.css";
import { App } from "./app.tsx";

render(<App />, document.querySelector("#app")!);
