// The only script entry of the pages: brings the widgets in. Each attaches itself by data- attributes,
// through listeners on the document, so that swapped content works without being bound again.
import "./morph.js";
import "./theme.js";
import "./menus.js";
import "./dialogs.js";
import "./toasts.js";
import "./requests.js";
import "./connection.js";
import "./pages.js";
import "./times.js";
import "./adapters.js";
import "./form.js";
import "./clip.js";
import "./upload.js";
import "./adapterlist.js";
import "./switch.js";
import "./inside.js";
import "./player.js";
import "./takes.js";
import "./compare.js";
import "./autoplay.js";
import "./listen.js";
import "./memory.js";
import "./memorypanel.js";
import "./shortcuts.js";
