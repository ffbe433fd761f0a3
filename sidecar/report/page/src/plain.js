// Pages without charts: a run.
import { startPrinting, startTheme } from "./theme.js";

startTheme();
startPrinting();
