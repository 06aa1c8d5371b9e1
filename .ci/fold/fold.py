"""Fold modules into fewer files: python fold.py TABLE.json [CONTRACTS.toml], from the root of a checkout.

TABLE: {"old/path.py": "new/path.py", ...}; several old paths may share a new one; the order is the order in the file.
"old/folder/": "new/folder/" moves data. "!rename": {"old/path.py:name": "new_name"} overrides the rule of names.
"!text": [["file", "old", "new"], ...] are literal replacements after the fold, each of which must apply.
CONTRACTS.toml: [[tool.importlinter.contracts]] tables, each of which replaces the one of its id in pyproject.toml.
Needs libcst. Comments and layout inside of definitions stay byte for byte; run ruff check --fix and ruff format after it.
"""

import ast
import builtins
import json
import re
import subprocess
import sys
import textwrap
import tokenize
import io
from collections import defaultdict
from pathlib import Path

import libcst as cst
from libcst.metadata import MetadataWrapper, ParentNodeProvider, PositionProvider, ScopeProvider, GlobalScope

ROOTS = ("export/", "cli/", "neighbours/")
ROOMS = ("dpd_runtime", "dpd_train", "dpd_eval", "dpd_export", "dpd_cli", "dpd_neighbours", "dpd_distill", "dpd_private")
LEFT_ALONE = re.compile(r"^(CHANGELOG\.md|recipes/results/.*|tests/frozen/.*)$")  # what was true then
BUILTINS = set(dir(builtins))
report: dict[str, list[str]] = defaultdict(list)


def git(*words: str) -> str:
    return subprocess.run(["git", *words], check=True, capture_output=True, text=True).stdout


def module_of(path: str) -> str:
    for root in ROOTS:
        path = path.removeprefix(root)
    return path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


FILES = [path for path in git("ls-files").splitlines() if Path(path).is_file() and not Path(path).is_symlink()]
PYTHON = [path for path in FILES if path.endswith(".py")]
SOURCE = {path: Path(path).read_text(encoding="utf-8") for path in PYTHON}
PATH_OF = {module_of(path): path for path in PYTHON if module_of(path).split(".")[0] in ROOMS}
TREES = {module: ast.parse(SOURCE[path]) for module, path in PATH_OF.items()}

table = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
overrides = {(module_of(key.split(":")[0]), key.split(":")[1]): new for key, new in table.pop("!rename", {}).items()}
texts = table.pop("!text", [])
docstrings = table.pop("!docstring", {})
folders = {old: new for old, new in table.items() if old.endswith("/")}
moves = {old: new for old, new in table.items() if not old.endswith("/")}
for old in moves:
    if old not in SOURCE:
        sys.exit(f"{old}: no such file")
TARGETS: dict[str, list[str]] = defaultdict(list)  # new module -> old modules
NEW_PATH = {module_of(new): new for new in moves.values()}
for old, new in moves.items():
    TARGETS[module_of(new)].append(module_of(old))
NEW = {module_of(old): module_of(new) for old, new in moves.items()}
CHANGED = {old for old, new in NEW.items() if old != new or len(TARGETS[new]) > 1}
for target, sources in TARGETS.items():
    if target in PATH_OF and target not in sources and not PATH_OF[target].endswith("__init__.py"):
        sys.exit(f"{target} exists and is no source of itself")


# ---- what each module binds at its top level


def is_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def targets_of(node: ast.AST) -> list[str]:
    return [part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)]


def bindings(body: list[ast.stmt]) -> dict[str, tuple]:
    found: dict[str, tuple] = {}
    for node in body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.split(".")[0]] = (
                    ("mod", alias.name) if alias.asname else ("mod", alias.name.split(".")[0])
                )
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                found[alias.asname or alias.name] = ("from", node.module, alias.name)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found[node.name] = ("def",)
        elif isinstance(node, (ast.If, ast.Try, ast.With, ast.For)):
            inner = [*getattr(node, "body", []), *getattr(node, "orelse", []), *getattr(node, "finalbody", [])]
            for handler in getattr(node, "handlers", []):
                inner += handler.body
            for name, what in bindings(inner).items():
                if name not in found or found[name][0] == "def":
                    found[name] = what
            if isinstance(node, (ast.For, ast.With)):
                found |= {name: ("def",) for name in targets_of(node)}
        else:
            for name in targets_of(node):
                if name not in found or found[name][0] == "def":
                    found[name] = ("def",)
    return found


TOPS = {module: bindings(tree.body) for module, tree in TREES.items()}


def is_package(module: str) -> bool:
    return PATH_OF.get(module, "").endswith("__init__.py")


def gone_packages() -> set[str]:
    """Packages of which nothing stays: their __init__.py goes too."""
    gone = set()
    for module in PATH_OF:
        if not is_package(module) or "." not in module:
            continue
        inside = [other for other in PATH_OF if other.startswith(module + ".") and not is_package(other)]
        stay = [o for o in inside if (NEW.get(o) or o).startswith(module + ".")]
        arrive = [t for t in NEW_PATH if t.startswith(module + ".")]
        if not stay and not arrive and (inside or module in NEW):
            gone.add(module)
        elif module in NEW_PATH and not NEW_PATH[module].endswith("__init__.py"):
            sys.exit(f"{NEW_PATH[module]} would hide the package {module}, of which there stay {stay + arrive}")
    return gone


GONE = gone_packages()
for target in NEW_PATH:  # a module is an attribute of its package, and would hide a name that the package gives lazily
    package, _, stem = target.rpartition(".")
    if f'"{stem}"' in SOURCE.get(PATH_OF.get(package, ""), "") and target not in PATH_OF:
        sys.exit(f"{target} would hide {stem}, which {package} exports")
for module in GONE - set(NEW):
    own = [n for n, what in TOPS[module].items() if what[0] == "def" and n != "__all__"]
    if own:
        sys.exit(f"{PATH_OF[module]} defines {own}: give it a row in the table")


def resolve(module: str, name: str) -> tuple:
    """What `name` in `module` is: ("def", module, name), ("mod", module) or ("ext", module, name)."""
    what = TOPS.get(module, {}).get(name)
    if what is None:
        return ("mod", f"{module}.{name}") if f"{module}.{name}" in PATH_OF else ("def", module, name)
    if what[0] == "def":
        return ("def", module, name)
    if what[0] == "mod":
        return what
    return resolve(what[1], what[2]) if what[1] in PATH_OF else ("ext", what[1], what[2])


# ---- names that collide in a target


def styled(name: str, stem: str) -> str:
    lead = "_" if name.startswith("_") else ""
    bare = name.lstrip("_")
    if bare.isupper():
        return f"{lead}{stem.upper()}_{bare}"
    if bare[0].isupper():
        return f"{lead}{''.join(w.capitalize() for w in stem.split('_'))}{bare}"
    return f"{lead}{bare}_{stem}"


def definition_text(module: str, name: str) -> str | None:
    nodes = [
        node
        for node in TREES[module].body
        if (isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name)
        or (isinstance(node, (ast.Assign, ast.AnnAssign)) and name in targets_of(node))
        or (isinstance(node, (ast.If, ast.Try)) and name in bindings([node]))
    ]
    if len(nodes) != 1:
        return None
    names = sorted({n.id for n in ast.walk(nodes[0]) if isinstance(n, ast.Name)} - {name})
    return ast.dump(nodes[0]) + repr([resolve(module, n) for n in names if n in TOPS[module]])


FINAL: dict[tuple[str, str], str] = {}  # (old module, defined name) -> name in the target
BOUND: dict[tuple[str, str], str] = {}  # (old module, imported name) -> name bound in the target
DROPPED: set[tuple[str, str]] = set()  # definitions which equal one that stays


def name_targets() -> None:
    for target, sources in TARGETS.items():
        lines = {s: SOURCE[PATH_OF[s]].count("\n") for s in sources}
        claims: dict[str, dict] = defaultdict(lambda: defaultdict(list))
        for source in sources:
            for name, what in TOPS[source].items():
                if name == "__all__":
                    continue
                entity = resolve(source, name)
                if what[0] == "def":
                    key = ("text", definition_text(source, name)) if definition_text(source, name) else entity
                    claims[overrides.get((source, name), name)][key].append((source, name, True))
                elif entity[0] == "def" and NEW.get(entity[1]) == target:
                    continue  # an import from a section of the same file
                elif entity[0] == "mod" and NEW.get(entity[1]) == target:
                    continue
                else:
                    claims[overrides.get((source, name), name)][entity].append((source, name, False))
        taken = set(claims)
        for wanted, entities in claims.items():

            def rank(users: list) -> tuple:
                public = not wanted.startswith("_")
                weight = 0 if users[0][2] and public else 1 if not users[0][2] else 2
                return weight, -len(users), -max(lines[s] for s, _, _ in users)

            for place, users in enumerate(sorted(entities.values(), key=rank)):
                chosen = wanted
                if place:
                    chosen = styled(wanted, users[0][0].split(".")[-1])
                    while chosen in taken:
                        chosen += "_"
                    taken.add(chosen)
                    report["renamed"].append(
                        f"{target}: {wanted} of {', '.join(s.split('.', 1)[-1] for s, _, _ in users)} -> {chosen}"
                        + ("" if users[0][2] else "  (an import)")
                    )
                elif wanted != users[0][1]:
                    report["renamed"].append(f"{target}: {users[0][1]} of {users[0][0]} -> {wanted}  (by the table)")
                first = True
                for source, name, defined in users:
                    (FINAL if defined else BOUND)[source, name] = chosen
                    if defined and not first and definition_text(source, name):
                        DROPPED.add((source, name))
                    first = False
            if wanted in BUILTINS:
                report["look"].append(f"{target}: {wanted} hides a builtin in the other sections")


name_targets()


def attribute(module: str, name: str) -> tuple[str, str]:
    """(new module, name there) of an attribute of an old module, as code that patches it sees it."""
    if module in GONE and module not in NEW:
        entity = resolve(module, name)
        if entity[0] == "def" and entity[1] != module:
            return attribute(entity[1], entity[2])
        return module, name
    new = NEW.get(module, module)
    what = TOPS.get(module, {}).get(name)
    if what is None or (module, name) in FINAL:
        return new, FINAL.get((module, name), name)
    if (module, name) in BOUND:
        return new, BOUND[module, name]
    entity = resolve(module, name)
    if module in NEW and entity[0] == "def" and NEW.get(entity[1]) == new:
        return new, FINAL.get((entity[1], entity[2]), entity[2])
    return new, name


def place_of(module: str, name: str) -> tuple:
    """What an importer of `name` from `module` imports now: ("name", module, name) or ("module", module)."""
    if f"{module}.{name}" in PATH_OF and name not in TOPS.get(module, {}):
        full = f"{module}.{name}"
        return ("module", NEW.get(full, full))
    if module not in CHANGED and module not in GONE:
        return ("name", module, name)
    entity = resolve(module, name)
    if entity[0] == "mod":
        return ("module", NEW.get(entity[1], entity[1])) if entity[1] in PATH_OF else ("name", *attribute(module, name))
    if entity[0] == "ext":
        return ("name", entity[1], entity[2])
    return ("name", *attribute(entity[1], entity[2]))


# ---- edits of one file


class Edits:
    def __init__(self, text: str) -> None:
        self.text = text
        self.starts = [0]
        for line in text.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.list: dict[tuple[int, int], str] = {}

    def offset(self, line: int, column: int) -> int:
        return self.starts[line - 1] + column

    def add(self, start: int, end: int, new: str) -> None:
        self.list[start, end] = new

    def covered(self, start: int, end: int) -> bool:
        return any(a < end and start < b for a, b in self.list)

    def slice(self, start: int, end: int) -> str:
        parts, at = [], start
        for (a, b), new in sorted(self.list.items()):
            if a < start or b > end:
                continue
            if a < at:
                report["errors"].append(f"overlapping edits at {self.text[a:b]!r}")
                continue
            parts += [self.text[at:a], new]
            at = b
        return "".join([*parts, self.text[at:end]])


DOTTED = re.compile(r"\b(?:" + "|".join(ROOMS) + r")(?:\.\w+)+")
PATHS = re.compile(r"(?:(?:export|cli|neighbours)/)?\b(?:" + "|".join(ROOMS) + r")(?:/\w+)+\.py\b")
FOLDER = re.compile(r"(?:(?:export|cli|neighbours)/)?\b(?:" + "|".join(ROOMS) + r")(?:/\w+)+/")
IMPORTING = re.compile(r"\bfrom ((?:" + "|".join(ROOMS) + r")(?:\.\w+)*) import (\w+(?: as \w+)?(?:, \w+(?: as \w+)?)*)")


def new_dotted(text: str) -> str:
    parts = text.split(".")
    for length in range(len(parts), 0, -1):
        module = ".".join(parts[:length])
        rest = parts[length:]
        if module in NEW and not (module in GONE and rest and rest[0] not in TOPS[module]):
            if rest:
                found, first = attribute(module, rest[0])
                return ".".join([found, first, *rest[1:]])
            return NEW[module]
        if module in GONE and rest and rest[0] in TOPS[module]:
            found, first = attribute(module, rest[0])
            return ".".join([found, first, *rest[1:]])
        if module in PATH_OF and module not in GONE:
            return text
    return text


def new_words(text: str, path: str, join: str = "; ") -> list[tuple[int, int, str]]:
    """Replacements of modules and paths that a text names."""
    found = []
    for match in IMPORTING.finditer(text):
        module, names = match[1], match[2].split(", ")
        plain = [name.split(" as ")[0] for name in names]
        if module not in CHANGED and module not in GONE and not any(f"{module}.{n}" in CHANGED for n in plain):
            continue
        lines: dict[str, list[str]] = defaultdict(list)
        for name, bound in ((n.split(" as ")[0], n.split(" as ")[-1]) for n in names):
            place = place_of(module, name)
            if place[0] == "module":
                package, _, stem = place[1].rpartition(".")
                lines[package].append(stem if stem == bound else f"{stem} as {bound}")
            else:
                lines[place[1]].append(place[2] if place[2] == bound else f"{place[2]} as {bound}")
        new = join.join(f"from {m} import {', '.join(n)}" for m, n in lines.items())
        found.append((match.start(), match.end(), new))
    inside = [(a, b) for a, b, _ in found]
    for match in DOTTED.finditer(text):
        if any(a <= match.start() < b for a, b in inside):
            continue
        if match[0] in GONE and match[0] not in NEW:
            report["packages named, which go"].append(f"{path}: {match[0]}")
        if (new := new_dotted(match[0])) != match[0]:
            found.append((match.start(), match.end(), new))
    for match in PATHS.finditer(text):
        whole = match[0]
        known = whole if whole in PATH_OF.values() else next((r + whole for r in ROOTS if r + whole in moves), whole)
        if known in moves and moves[known] != known:
            new = moves[known]
            found.append((match.start(), match.end(), new if known == whole else new.split("/", 1)[1]))
    for match in FOLDER.finditer(text):
        for old, new in folders.items():
            if match[0].startswith(old):
                found.append((match.start(), match.start() + len(old), new))
                break
        else:
            if text[match.end() : match.end() + 1] not in {"", " ", "`", ",", ".", ")", "\n"}:
                continue
            module = module_of(match[0].rstrip("/"))
            if module in GONE:
                report["folders named"].append(f"{path}: {match[0]}")
    return [item for item in found if text[item[0] : item[1]] != item[2]]


class File:
    """A Python file with its scopes, and the edits that the fold wants in it."""

    def __init__(self, path: str) -> None:
        self.path, self.text, self.module = path, SOURCE[path], module_of(path)
        self.target = NEW.get(self.module) if self.module in NEW and path in moves else None
        self.edits = Edits(self.text)
        self.generated: dict[int, list[str]] = {}  # line of a top-level import -> the lines that replace it
        wrapper = MetadataWrapper(cst.parse_module(self.text), unsafe_skip_copy=True)
        self.positions = wrapper.resolve(PositionProvider)
        self.scopes = wrapper.resolve(ScopeProvider)
        self.parents = wrapper.resolve(ParentNodeProvider)
        self.tree = wrapper.module
        self.bound = {a.name for s in set(self.scopes.values()) if s for a in s.assignments}
        self.global_scope = next(s for s in self.scopes.values() if isinstance(s, GlobalScope))
        self.rename_definitions()
        visitor = _Imports(self)
        self.tree.visit(visitor)
        self.words()

    def span(self, node: cst.CSTNode) -> tuple[int, int]:
        where = self.positions[node]
        return self.edits.offset(where.start.line, where.start.column), self.edits.offset(where.end.line, where.end.column)

    def rename_reference(self, node: cst.CSTNode, old: str, new: str) -> None:
        start, end = self.span(node)
        if isinstance(node, cst.Name):
            if self.text[start:end] != old:
                report["errors"].append(f"{self.path}: {self.text[start:end]!r} where {old} was expected")
                return
            parent = self.parents.get(node)
            self.edits.add(start, end, new)
        elif isinstance(node, cst.SimpleString):
            self.edits.add(start, end, re.sub(rf"\b{old}\b", new, self.edits.list.get((start, end), self.text[start:end])))
        else:
            first = node
            while isinstance(first, cst.Attribute):
                first = first.value
            self.rename_reference(first, old, new)
        scope = self.scopes.get(node)
        while scope is not None and not isinstance(scope, GlobalScope):
            if new in {a.name for a in scope.assignments} and not old == new:
                report["errors"].append(f"{self.path}: {old} -> {new}, which is a local name there")
            if scope is scope.parent:
                break
            scope = scope.parent

    def rename_definitions(self) -> None:
        if self.target is None:
            return
        for (module, name), new in FINAL.items():
            if module != self.module or new == name:
                continue
            for assignment in self.global_scope[name]:
                node = assignment.node
                if isinstance(node, (cst.FunctionDef, cst.ClassDef)):
                    self.edits.add(*self.span(node.name), new)
                elif isinstance(node, cst.Name):
                    self.edits.add(*self.span(node), new)
                for access in assignment.references:
                    self.rename_reference(access.node, name, new)

    def wanted(self, module: str, name: str, asname: str | None, top: bool) -> tuple[str | None, str | None, str]:
        """(module, "name as bound" or None where it is in this file, the name bound) for one name of an import."""
        bound = asname or name
        place = place_of(module, name)
        if place[0] == "module":
            target = place[1]
            if self.target is not None and target == self.target:
                return None, None, bound
            package, _, stem = target.rpartition(".")
            new = bound
            if self.target is not None and top:
                new = BOUND.get((self.module, bound), bound)
            elif asname is None and stem != name and stem not in self.bound:
                new = stem
            return package, stem if new == stem else f"{stem} as {new}", new
        _, target, final = place
        if self.target is not None and target == self.target:
            return None, None, final
        if self.target is not None and top:
            new = BOUND.get((self.module, bound), bound)
        elif final == name or asname or self.path.endswith("__init__.py"):
            new = bound
        else:
            new = final if final not in self.bound else bound
        exported = asname == name and self.target is None  # `X as X`: it may be imported from here
        return target, final if new == final and not exported else f"{final} as {new}", new

    def references(self, node: cst.CSTNode, bound: str) -> list:
        scope = self.scopes.get(node)
        found = []
        for assignment in scope[bound] if scope is not None else ():
            if getattr(assignment, "node", None) is node or isinstance(assignment.scope, GlobalScope):
                found += [access.node for access in assignment.references]
        return found

    def words(self) -> None:
        """Modules and paths in strings and comments; with an import of a whole module, its dotted uses."""
        imports = []

        class Lines(cst.CSTVisitor):
            def visit_Import(inner, node: cst.Import) -> None:
                imports.append(self.span(node))

            def visit_ImportFrom(inner, node: cst.ImportFrom) -> None:
                imports.append(self.span(node))

        self.tree.visit(Lines())
        for start, end, new in new_words(self.text, self.path):
            if any(a <= start < b for a, b in imports) or self.edits.covered(start, end):
                continue
            self.edits.add(start, end, new)
        if self.path.endswith("__init__.py") and self.module in ROOMS:  # lazy exports name modules within the room
            for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
                if token.type == tokenize.STRING and re.fullmatch(r"[\"'][\w.]+[\"']", token.string):
                    old = f"{self.module}.{token.string[1:-1]}"
                    new = None
                    if old in NEW:
                        new = NEW[old]
                    elif old in GONE:
                        line = self.text.splitlines()[token.start[0] - 1]
                        name = re.match(r"\s*\"(\w+)\": ", line)
                        if name:
                            new = resolve(old, name[1])[1]
                            new = NEW.get(new, new)
                    if new is not None and new != old:
                        start = self.edits.offset(*token.start)
                        self.edits.add(start, start + len(token.string), f'"{new.removeprefix(self.module + ".")}"')


def dotted(node: cst.BaseExpression | None) -> str:
    if node is None:
        return ""
    return f"{dotted(node.value)}.{node.attr.value}" if isinstance(node, cst.Attribute) else node.value


class _Imports(cst.CSTVisitor):
    def __init__(self, file: File) -> None:
        self.file = file

    def visit_Global(self, node: cst.Global) -> None:
        for item in node.names:
            new = FINAL.get((self.file.module, item.name.value)) if self.file.target else None
            if new and new != item.name.value:
                self.file.edits.add(*self.file.span(item.name), new)

    def visit_Call(self, node: cst.Call) -> None:
        """monkeypatch.setattr(module, "name", ...) and the like."""
        if len(node.args) < 2 or not isinstance(node.args[1].value, cst.SimpleString):
            return
        first, second = node.args[0].value, node.args[1].value
        module = None
        if isinstance(first, cst.Call) and dotted_safe(first.func).endswith("import_module") and first.args:
            if isinstance(first.args[0].value, cst.SimpleString):
                module = first.args[0].value.evaluated_value
        elif isinstance(first, cst.Name):
            module = self.module_named(first)
        if isinstance(module, str) and module in NEW:
            name = second.evaluated_value
            _, new = attribute(module, name)
            if new != name:
                self.file.edits.add(*self.file.span(second), f'"{new}"')

    def module_named(self, node: cst.Name) -> str | None:
        scope = self.file.scopes.get(node)
        for assignment in scope[node.value] if scope is not None else ():
            made = getattr(assignment, "node", None)
            if isinstance(made, cst.ImportFrom) and not isinstance(made.names, cst.ImportStar):
                for alias in made.names:
                    if (alias.evaluated_alias or alias.evaluated_name) == node.value:
                        full = f"{dotted(made.module)}.{alias.evaluated_name}"
                        return full if full in PATH_OF else None
            if isinstance(made, cst.Import):
                for alias in made.names:
                    if alias.evaluated_alias == node.value:
                        return alias.evaluated_name
        return None

    def visit_Import(self, node: cst.Import) -> None:
        file = self.file
        lines, changed = [], False
        for alias in node.names:
            name, asname = alias.evaluated_name, alias.evaluated_alias
            if name in NEW and NEW[name] != name:
                changed = True
                if file.target and NEW[name] == file.target:
                    report["errors"].append(f"{file.path}: imports {name}, a section of its own file, as a module")
                lines.append(f"import {NEW[name]}" + (f" as {asname}" if asname else ""))
                if asname:
                    self.attributes(node, name, asname, asname)
            else:
                new = BOUND.get((file.module, asname or name.split(".")[0])) if file.target else None
                if new and new != (asname or name.split(".")[0]):
                    changed = True
                    lines.append(f"import {name} as {new}")
                    for reference in file.references(node, asname or name):
                        file.rename_reference(reference, asname or name, new)
                else:
                    lines.append(f"import {name}" + (f" as {asname}" if asname else ""))
                if asname and name in NEW:
                    self.attributes(node, name, asname, asname)
        self.replace(node, lines, changed)

    def attributes(self, node: cst.CSTNode, module: str, bound: str, new: str | None) -> None:
        """Uses of an imported module: its attributes may have other names; new None: they are in this file."""
        for reference in self.file.references(node, bound):
            if not isinstance(reference, cst.Name):
                reference_name = reference
                while isinstance(reference_name, cst.Attribute) and not isinstance(reference_name.value, cst.Name):
                    reference_name = reference_name.value
                parent = reference_name
            else:
                parent = self.file.parents.get(reference)
            if isinstance(parent, cst.Attribute) and isinstance(parent.value, cst.Name):
                _, final = attribute(module, parent.attr.value)
                if new is None:
                    self.file.edits.add(*self.file.span(parent), final)
                    scope = self.file.scopes.get(parent.value)
                    while scope is not None and not isinstance(scope, GlobalScope):
                        if final in {a.name for a in scope.assignments}:
                            report["errors"].append(f"{self.file.path}: {module}.{final} where {final} is a local name")
                        scope = scope.parent
                    continue
                if final != parent.attr.value:
                    self.file.edits.add(*self.file.span(parent.attr), final)
                if new != bound:
                    self.file.edits.add(*self.file.span(parent.value), new)
            elif new is None:
                report["errors"].append(f"{self.file.path}: {bound} is used as a module, and is in the same file now")
            elif new != bound and isinstance(reference, cst.Name):
                self.file.edits.add(*self.file.span(reference), new)

    def visit_ImportFrom(self, node: cst.ImportFrom) -> None:
        file, module = self.file, dotted(node.module)
        if isinstance(node.names, cst.ImportStar) or module == "__future__":
            return
        top = isinstance(file.scopes.get(node), GlobalScope)
        groups: dict[str, list[str]] = {}
        changed = False
        for alias in node.names:
            name, asname = alias.evaluated_name, alias.evaluated_alias
            bound = asname or name
            if module.split(".")[0] not in ROOMS:
                new = BOUND.get((file.module, bound), bound) if file.target and top else bound
                groups.setdefault(module, []).append(name if new == name else f"{name} as {new}")
                target = module
            else:
                target, said, new = file.wanted(module, name, asname, top)
                if target is not None:
                    groups.setdefault(target, []).append(said)
                place = place_of(module, name)
                if place[0] == "module":
                    changed |= target != module or said != (f"{name} as {asname}" if asname else name)
                    self.attributes(node, f"{module}.{name}", bound, None if target is None else new)
                    continue
            changed |= target != module or new != bound or (target and groups[target][-1].split(" as ")[0] != name)
            if new != bound:
                for reference in file.references(node, bound):
                    file.rename_reference(reference, bound, new)
        self.replace(node, [f"from {m} import {', '.join(names)}" for m, names in groups.items()], changed)

    def replace(self, node: cst.CSTNode, lines: list[str], changed: bool) -> None:
        file = self.file
        start, end = file.span(node)
        line = file.positions[node].start.line
        file.generated[line] = lines
        if not changed:
            return
        parent = file.parents[node]
        block = file.parents[parent]
        first_column = file.edits.starts[line - 1]
        indent = file.text[first_column:start]
        if lines or indent.strip():
            after = re.match(r"  #[^\n]*", file.text[end:])
            tail = after[0] if after and not indent.strip() else ""
            file.edits.add(start, end, f"{tail}\n{indent}".join(lines) if lines else "pass")
            return
        if isinstance(block, cst.IndentedBlock) and len(block.body) == 1:
            file.edits.add(start, end, "pass")
            return
        stop = file.text.find("\n", end) + 1
        if isinstance(block, cst.IndentedBlock):
            index = block.body.index(parent)
            before = block.body[index - 1] if index else None
            docstring = (
                isinstance(before, cst.SimpleStatementLine)
                and isinstance(before.body[0], cst.Expr)
                and isinstance(before.body[0].value, (cst.SimpleString, cst.ConcatenatedString))
            )
            if before is None or docstring:
                while file.text[stop : stop + 1] == "\n":
                    stop += 1
        file.edits.add(first_column, stop, "")


def merged_lines(text: str) -> str:
    """Neighbouring imports from one module, with the same comment if any, as one: a noqa must stay on its line."""
    lines, run = [], {}
    for line in text.splitlines(keepends=True):
        match = re.fullmatch(r"(\s*)from (\S+) import ([^()#\\\n\"]+?)( *#[^\n]*)?\n", line)
        if match is None:
            run = {} if not re.match(r"\s*(from|import) ", line) else run
            lines.append(line)
            continue
        key = match[1], match[2], (match[4] or "").strip()
        if key in run:
            place, names = run[key]
            names += [name for name in match[3].split(", ") if name not in names]
            tail = f"  {key[2]}" if key[2] else ""
            lines[place] = f"{key[0]}from {key[1]} import {', '.join(names)}{tail}\n"
        else:
            run[key] = len(lines), match[3].split(", ")
            lines.append(line)
    return "".join(lines)


def dotted_safe(node: cst.BaseExpression) -> str:
    try:
        return dotted(node)
    except AttributeError:
        return ""


# ---- order of sections


def import_time_uses(module: str) -> set[str]:
    """Old modules of the same target whose definitions must exist before this section runs."""
    target, needed, seen = NEW[module], set(), set()
    lazy = {m: any(isinstance(n, ast.ImportFrom) and n.module == "__future__" for n in TREES[m].body) for m in TREES}

    def use(owner: str, name: str, called: bool, local: dict) -> None:
        entity = resolve(local[name][0], local[name][1]) if name in local else resolve(owner, name) if name in TOPS[owner] else None
        if entity is None or entity[0] != "def":
            return
        where, what = entity[1], entity[2]
        if NEW.get(where) == target and where != module:
            needed.add(where)
        if called and (where, what) not in seen and where in TREES and NEW.get(where) == target:
            seen.add((where, what))
            for node in TREES[where].body:
                if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == what:
                    inner = {
                        a.asname or a.name: (n.module, a.name)
                        for n in ast.walk(node)
                        if isinstance(n, ast.ImportFrom) and n.module in PATH_OF
                        for a in n.names
                    }
                    for part in ast.walk(node):
                        if isinstance(part, ast.Name):
                            use(where, part.id, True, inner)

    def run(node: ast.AST, called: bool) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for part in node.decorator_list:
                run(part, True)
            for part in [*node.args.defaults, *[d for d in node.args.kw_defaults if d]]:
                run(part, called)
            if not lazy[module]:
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
                for part in [*[a.annotation for a in arguments if a], node.returns]:
                    if part is not None:
                        run(part, False)
            return
        if isinstance(node, ast.Lambda):
            return
        if isinstance(node, ast.Name):
            use(module, node.id, called, {})
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in TOPS[module]:
            entity = resolve(module, node.value.id)
            if entity[0] == "mod" and NEW.get(entity[1]) == target and entity[1] != module:
                needed.add(entity[1])
        if isinstance(node, ast.AnnAssign) and lazy[module]:
            if node.value:
                run(node.value, called)
            return
        for child in ast.iter_child_nodes(node):
            run(child, called or isinstance(node, ast.Call) or (isinstance(node, ast.ClassDef) and child in node.decorator_list))

    for node in TREES[module].body:
        if not is_checking(node):
            run(node, False)
    return needed


def ordered(target: str) -> list[str]:
    left, done = list(TARGETS[target]), []
    needs = {source: import_time_uses(source) for source in left}
    while left:
        for source in left:
            if needs[source] <= set(done):
                done.append(source)
                left.remove(source)
                break
        else:
            report["errors"].append(f"{target}: {left} need one another when imported")
            done += left
            break
    if done != TARGETS[target]:
        report["order"].append(f"{target}: {', '.join(s.split('.')[-1] for s in done)}")
    return done


# ---- assembly


def heading(module: str, target: str) -> str:
    said = ast.get_docstring(TREES[module])
    if said and module == TARGETS[target][0] and NEW_PATH[target] not in docstrings:
        said = re.split(r"(?<=[.]) ", said.split("\n\n")[0].replace("\n", " "))[0]
    stem = module.split(".")[-1]
    if not said:
        return f"# -- {stem}\n"
    parts = []
    for place, paragraph in enumerate(said.split("\n\n")):
        lines = paragraph.splitlines()
        if any(line.startswith((" ", "-", ">>>")) for line in lines):
            parts.append("\n".join(f"# {line}".rstrip() for line in lines))
        else:
            lead = "# -- " if place == 0 else "# "
            parts.append(textwrap.fill(" ".join(lines), 120, initial_indent=lead, subsequent_indent="# "))
    return "\n#\n".join(parts) + "\n"


def assemble(target: str) -> str:
    sources = ordered(target)
    docstring, future = "", False
    imports: list[str] = []
    tries: list[str] = []
    checking: list[str] = []
    bodies: list[str] = []
    mains: list[str] = []
    seen: set[str] = set()
    for place, module in enumerate(sources):
        path = PATH_OF[module]
        file = FILE[path]
        text, edits, tree = file.text, file.edits, TREES[module]
        body: list[str] = []
        at, started = 0, False
        for index, node in enumerate(tree.body):
            first = min([node.lineno, *[d.lineno for d in getattr(node, "decorator_list", [])]])
            start, stop = at, edits.starts[node.end_lineno]
            at = stop
            lead = text[start : edits.starts[first - 1]]
            comments = lead.strip("\n") + "\n" if lead.strip() else ""
            if index == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                if module == TARGETS[target][0]:
                    docstring = edits.slice(start, stop)
                continue
            if isinstance(node, ast.ImportFrom) and node.module == "__future__":
                future = True
                continue
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                if started:
                    report["look"].append(f"{path}:{node.lineno}: an import below other statements moves to the top")
                imports += import_lines(file, node, seen, comments)
            elif is_checking(node):
                for inner in node.body:
                    if isinstance(inner, (ast.Import, ast.ImportFrom)):
                        checking += [("late", file, inner)]
                    else:
                        checking += [("text", edits.slice(edits.starts[inner.lineno - 1], edits.starts[inner.end_lineno]))]
            elif isinstance(node, ast.Try) and all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in node.body):
                said = edits.slice(start, stop).strip("\n") + "\n"
                if said not in tries:
                    tries.append(said)
            elif isinstance(node, ast.Assign) and targets_of(node) == ["__all__"]:
                report["__all__ dropped"].append(path)
            elif (
                isinstance(node, ast.If)
                and isinstance(node.test, ast.Compare)
                and isinstance(node.test.left, ast.Name)
                and node.test.left.id == "__name__"
            ):
                mains.append(edits.slice(start, stop))
            else:
                names = targets_of(node) if not hasattr(node, "name") else [node.name]
                if isinstance(node, (ast.Assign, ast.AnnAssign, ast.FunctionDef, ast.ClassDef)):
                    if any((module, name) in DROPPED for name in names):
                        report["merged"].append(f"{target}: {', '.join(names)} of {module}")
                        continue
                started = True
                body.append(edits.slice(start, stop))
        rest = text[at:]
        if rest.strip():
            body.append(rest)
        said = "".join(body).strip("\n")
        if said:
            headed = place or module != TARGETS[target][0] or NEW_PATH[target] in docstrings
            bodies.append(f"{heading(module, target)}\n\n{said}" if headed and len(sources) > 1 else said)
        elif place and not said:
            report["look"].append(f"{path}: nothing but imports")
    for item in list(checking):
        if item[0] == "late":
            position = checking.index(item)
            checking[position : position + 1] = [("text", textwrap.indent(line, "    ")) for line in import_lines(item[1], item[2], seen, "")]
    if NEW_PATH[target] in docstrings:
        docstring = f'"""{docstrings[NEW_PATH[target]]}"""'
    parts = [docstring.rstrip("\n") + "\n"] if docstring else []
    parts += ["from __future__ import annotations\n"] if future else []
    parts += ["".join(joined(imports))] if imports else []
    parts += ["\n".join(tries)] if tries else []
    if checking:
        if not any("TYPE_CHECKING" in line for line in seen):
            parts.insert(len(parts) - bool(tries), "from typing import TYPE_CHECKING\n")
        parts += ["if TYPE_CHECKING:\n" + "".join(text for _, text in checking)]
    return "\n".join(parts) + "\n\n" + "\n\n\n".join(bodies + [m.strip("\n") for m in mains]) + "\n"


def joined(lines: list[str]) -> list[str]:
    """Imports from one module with the same comment on one line, so that none is between two others."""
    made: dict[tuple[str, str], str] = {}
    rest = []
    for line in lines:
        match = re.fullmatch(r"from (\S+) import ([^#\n]*?)(  #[^\n]*)?\n", line)
        if match is None:
            rest.append(line)
            made[str(len(made)), ""] = line
            continue
        key = match[1], match[3] or ""
        made[key] = f"{made[key].split('  #')[0].rstrip()}, {match[2]}{key[1]}\n" if key in made else line
    return list(made.values())


def import_lines(file: File, node: ast.stmt, seen: set[str], comments: str) -> list[str]:
    generated = file.generated.get(node.lineno)
    if generated is None:
        report["errors"].append(f"{file.path}:{node.lineno}: an import that was not looked at")
        generated = [ast.unparse(node)]
    source = "".join(file.text.splitlines(keepends=True)[node.lineno - 1 : node.end_lineno])
    comment = re.search(r"#[^\n]*", source)
    tail = f"  {comment[0]}" if comment else ""
    made = []
    for line in generated:
        if line.startswith("from "):
            module, names = re.fullmatch(r"from (\S+) import (.*)", line).groups()
            # one name is one thing in a target, wherever it was imported from
            fresh = [n for n in names.split(", ") if f"import {n.split(' as ')[-1]}" not in seen]
            seen.update(f"import {n.split(' as ')[-1]}" for n in fresh)
            if fresh:
                made.append(f"from {module} import {', '.join(fresh)}{tail}\n")
        elif line not in seen:
            seen.add(line)
            made.append(f"{line}{tail}\n")
    if made and comments:
        made.insert(0, comments)
    return made


# ---- cycles


def graph(lazy: bool) -> dict[str, set[str]]:
    edges: dict[str, set[str]] = {}
    paths = [p for p in git("ls-files", "*.py").splitlines() if module_of(p).split(".")[0] in ROOMS and Path(p).exists()]
    known = {module_of(p) for p in paths}
    for path in paths:
        module, found = module_of(path), set()
        tree = ast.parse(Path(path).read_text(encoding="utf-8"))
        stack: list[ast.AST] = list(tree.body)
        while stack:
            node = stack.pop()
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    found.add(f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in known else node.module)
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif is_checking(node) and not lazy:
                continue
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) and not lazy:
                continue
            else:
                stack += list(ast.iter_child_nodes(node))
        edges[module] = (found & known) - {module} if lazy else found - {module}
    return edges


def cycles(edges: dict[str, set[str]]) -> list[list[str]]:
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []
    sys.setrecursionlimit(10000)

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in edges.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(group)

    for node in list(edges):
        if node not in index:
            visit(node)
    return found


HEAVY = {"torch", "diffusers", "transformers", "onnx", "onnxruntime", "sklearn", "scipy", "jinja2", "numpy", "PIL", "msgspec", "openvino", "rich", "typer", "cryptography", "safetensors", "peft", "accelerate", "huggingface_hub"}


def loads(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """The external packages that importing each module brings."""

    def closure(module: str) -> set[str]:
        seen, todo = set(), [module]
        while todo:
            node = todo.pop()
            if node in seen:
                continue
            seen.add(node)
            parts = node.split(".")
            todo += [".".join(parts[:n]) for n in range(1, len(parts)) if parts[0] in ROOMS]
            todo += list(edges.get(node, ()))
        return {node.split(".")[0] for node in seen} & HEAVY

    return {module: closure(module) for module in edges if module.split(".")[0] in ROOMS}


# ---- all of it

before_loads = loads(graph(False))
FILE: dict[str, File] = {}
mentions = re.compile("|".join(ROOMS))
def touched(path: str) -> bool:
    """Whether the fold may change this file: an import or a word of it names what moves."""
    text = SOURCE[path]
    if not mentions.search(text):
        return False
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module in CHANGED | GONE or any(f"{node.module}.{a.name}" in CHANGED for a in node.names):
                return True
        elif isinstance(node, ast.Import) and any(a.name in CHANGED | GONE for a in node.names):
            return True
    return bool(new_words(text, path)) or module_of(path) in ROOMS


for path in PYTHON:
    if path in moves or touched(path):
        if path.endswith("__init__.py") and module_of(path) in GONE and path not in moves:
            continue
        FILE[path] = File(path)
outputs: dict[str, str] = {}
for target in TARGETS:
    if set(TARGETS[target]) & CHANGED:
        outputs[NEW_PATH[target]] = assemble(target)
for path, file in FILE.items():
    if path in moves:
        continue
    new = file.edits.slice(0, len(file.text))
    if new != file.text:
        outputs[path] = merged_lines(new)
        report["importers rewritten"].append(path)
for path in FILES:
    if path in SOURCE or LEFT_ALONE.match(path):
        continue
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        continue
    edits = Edits(text)
    join = '\\n",\n    "' if path.endswith(".ipynb") else "\n" if path.endswith(".md") else "; "
    for start, end, new in new_words(text, path, join):
        edits.add(start, end, new)
    new = edits.slice(0, len(text))
    if new != text:
        outputs[path] = new
        report["importers rewritten"].append(path)

lines_before = {p: SOURCE[p].count("\n") for p in moves}
if report["errors"]:
    print("\n".join(["ERRORS, nothing was written:", *sorted(set(report["errors"]))]))
    sys.exit(1)
for target, sources in TARGETS.items():
    new = NEW_PATH[target]
    paths = [PATH_OF[s] for s in sources]
    if new not in paths and not Path(new).exists():
        largest = max(paths, key=lambda p: lines_before[p])
        Path(new).parent.mkdir(parents=True, exist_ok=True)
        git("mv", largest, new)
        paths.remove(largest)
    for path in paths:
        if path != new:
            git("rm", "-q", "-f", path)
for old, new in folders.items():
    Path(new).parent.mkdir(parents=True, exist_ok=True)
    git("mv", old.rstrip("/"), new.rstrip("/"))
for module in sorted(GONE):
    if Path(PATH_OF[module]).exists() and PATH_OF[module] not in moves:
        git("rm", "-q", "-f", PATH_OF[module])
for path, text in outputs.items():
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")
for path, old, new in texts:
    text = Path(path).read_text(encoding="utf-8")
    if old not in text:
        report["look"].append(f"{path} has no {old!r} to replace")
    Path(path).write_text(text.replace(old, new), encoding="utf-8")
if len(sys.argv) > 2:
    page = Path("pyproject.toml").read_text(encoding="utf-8")
    for block in Path(sys.argv[2]).read_text(encoding="utf-8").split("[[tool.importlinter.contracts]]\n")[1:]:
        name = re.search(r'^id = "(\w+)"', block, re.M)[1]
        known = re.compile(r'\[\[tool\.importlinter\.contracts\]\]\nid = "' + name + r'"\n.*?(?=\n\[|\Z)', re.S)
        fresh = "[[tool.importlinter.contracts]]\n" + block.rstrip("\n") + "\n"
        page = known.sub(lambda _: fresh, page)
    Path("pyproject.toml").write_text(page, encoding="utf-8")
git("add", "-A")

print(f"{len(moves)} files, {sum(lines_before.values())} lines ->")
for target, sources in TARGETS.items():
    print(f"  {NEW_PATH[target]}: {Path(NEW_PATH[target]).read_text().count(chr(10))} lines of {len(sources)} files")
after = graph(False)
report["cycles at import"] = [" ".join(group) for group in cycles(after)]
report["cycles, imports in functions counted"] = [" ".join(group) for group in cycles(graph(True))]
after_loads = loads(after)
for module, had in before_loads.items():
    gained = after_loads.get(NEW.get(module, module), set()) - had
    if gained:
        report["loads more than before"].append(f"{module}: {' '.join(sorted(gained))}")
for path, file in FILE.items():
    if path in moves and re.search(r"__file__|resources\.files|PackageLoader|python -m", file.text):
        report["look"].append(f"{path}: finds files by its place, or is run by name")
rewritten = report.pop("importers rewritten", [])
for title, lines in report.items():
    if lines:
        print(f"{title}:")
        for line in sorted(set(lines)):
            print(f"  {line}")
print(f"importers and documents rewritten: {len(rewritten)}")
