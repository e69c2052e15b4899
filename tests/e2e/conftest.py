from tests.support.warm import forked_zygotes as forked_zygotes
from tests.support.warm import template as template
