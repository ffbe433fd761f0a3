// Pages without charts: a run.
import { startSections } from "./sections.js";
import { startPrinting, startTargets, startTheme } from "./theme.js";

startTheme();
startPrinting();
startSections();
startTargets();
