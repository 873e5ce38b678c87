# imfd evaluate: the metrics library, and MPI in a module of its own where it is installed.
target_sources(imfd_server PRIVATE evaluate_collect.c evaluate_images.c evaluate_options.c evaluate_report.c
    evaluate_run.c evaluate_score.c evaluate_setup.c evaluate_state.c ranks.c)
target_link_libraries(imfd_server PRIVATE imf_metrics ${CMAKE_DL_LIBS})
target_compile_definitions(imfd_server PRIVATE
    IMFD_MODULE_DIR="${CMAKE_INSTALL_PREFIX}/lib/imfd")
pkg_check_modules(MPI_C IMPORTED_TARGET ompi-c)
if(MPI_C_FOUND)
    add_library(imfd_mpi MODULE mpi_module.c)
    set_target_properties(imfd_mpi PROPERTIES C_VISIBILITY_PRESET hidden
        LIBRARY_OUTPUT_DIRECTORY $<TARGET_FILE_DIR:imfd>)
    target_include_directories(imfd_mpi PRIVATE $<TARGET_PROPERTY:imf_engine,INTERFACE_INCLUDE_DIRECTORIES>)
    target_link_libraries(imfd_mpi PRIVATE imf_warnings PkgConfig::MPI_C)
    install(TARGETS imfd_mpi LIBRARY DESTINATION lib/imfd COMPONENT mpi)
else()
    message(STATUS "imfd: no Open MPI found: 'mpirun imfd evaluate' will not work")
endif()
